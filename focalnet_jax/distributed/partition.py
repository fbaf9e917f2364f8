"""Lets the compiler split kernels over the batch, along the axes of any mesh."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import numpy as np
from jax.custom_batching import sequential_vmap
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def partitioned(
    function: Callable[..., Any], arguments: Any, result: Any, batch: Mapping[str, int], sums: Collection[str]
) -> Callable[..., Any]:
    """Returns `function` with a rule by which the compiler splits it over the batch B.

    Each device computes its own examples; arrays without B are replicated. If the compiler does not split B, or not in
    equal parts, each device computes everything. `jax.vmap` of the returned function is a loop. On one device, the
    compiled program is the same as without the rule.

    Args:
      function: function of arrays, which may be in trees.
      arguments: kind (a name) of each array, in a tree with the structure of the arguments.
      result: kind of each result, or of each subtree of results.
      batch: for each kind that has the dimension B, the index of this dimension.
      sums: kinds of results that are parts of sums over B, `[n, ...]`; the parts are added up to `[1, ...]`.
    """
    result_kinds: list[str] = []  # of each array; set when `summed` is traced, and read by `rule` afterwards

    def summed(*given: Any) -> Any:
        made = function(*given)
        kinds = jax.tree.broadcast(result, made)
        result_kinds[:] = jax.tree.leaves(kinds)
        return jax.tree.map(lambda kind, x: x.sum(0, keepdims=True) if kind in sums else x, kinds, made)

    def partition(mesh: Mesh, given: Any, made: Any) -> Any:
        if mesh.empty:  # the arrays are on several devices without a mesh, so there are no axis names
            mesh = Mesh(np.asarray(list(jax.tree.leaves(given)[0].sharding.device_set)), ("devices",))
        pairs = zip(jax.tree.leaves(arguments), jax.tree.leaves(given), strict=True)
        axes = next(filter(None, (_axes_of_batch(x, batch.get(kind)) for kind, x in pairs)), ())
        kinds = jax.tree.broadcast(result, made)

        def sharding(kind: str, _: Any) -> NamedSharding:
            split = [] if not axes or kind not in batch else [*[None] * batch[kind], axes]
            return NamedSharding(mesh, PartitionSpec(*split))

        def on_each(*parts: Any) -> Any:
            made = summed(*parts)
            if not axes:
                return made
            return jax.tree.map(lambda kind, x: jax.lax.psum(x, axes) if kind in sums else x, kinds, made)

        return mesh, on_each, jax.tree.map(sharding, kinds, made), jax.tree.map(sharding, arguments, given)

    def rule(_: Mesh, given: Any, made: Any) -> tuple[str, dict[str, tuple[str, ...]]]:
        names = ("b", *(f"w{index}" for index in range(sum(x.rank for x in (*given, *made)))))
        fresh = iter(names[1:])

        def side(kinds: list[str], types: Any) -> str:
            return ", ".join(
                " ".join("b" if batch.get(kind) == dimension else next(fresh) for dimension in range(x.rank))
                for kind, x in zip(kinds, types, strict=True)
            )

        text = f"{side(jax.tree.leaves(arguments), given)} -> {side(result_kinds, made)}"
        whole = tuple(name for name in names[1:] if name in text.replace(",", "").split())
        return text, {"need_replication_factors": whole}

    call = custom_partitioning(summed)
    call.def_partition(partition, sharding_rule=rule)
    return sequential_vmap(call)


def _axes_of_batch(x: jax.ShapeDtypeStruct, dimension: int | None) -> tuple[str, ...]:
    """Returns the names of the mesh axes that split a dimension of `x`, or () if they do not split it evenly."""
    if dimension is None or not isinstance(x.sharding, NamedSharding) or len(x.sharding.spec) <= dimension:
        return ()
    names = x.sharding.spec[dimension]
    names = (names,) if isinstance(names, str) else tuple(names or ())
    return names if x.shape[dimension] % math.prod(x.sharding.mesh.shape[name] for name in names) == 0 else ()
