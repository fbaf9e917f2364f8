"""Kernels split over the batch by the compiler, over axes of any mesh."""

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
    """Returns `function` for arrays that the compiler splits: each device computes its examples, and all else whole.

    Where the compiler splits none of B, or not in equal parts, each device computes the whole. `jax.vmap` of it is a
    loop. Without several devices the program is that of `function`.

    Args:
      function: of arrays or trees of them.
      arguments: the kind of each array, a tree of names as the arguments are.
      result: the kind of each result, or of each subtree.
      batch: by kind, the dimension that is B; kinds that are absent are whole on every device.
      sums: kinds of results that are parts of sums over B, `[n, ...]`; they are added up to `[1, ...]`.
    """
    result_kinds: list[str] = []  # of each array, known when it is traced, which is before it is lowered

    def summed(*given: Any) -> Any:
        made = function(*given)
        kinds = jax.tree.broadcast(result, made)
        result_kinds[:] = jax.tree.leaves(kinds)
        return jax.tree.map(lambda kind, x: x.sum(0, keepdims=True) if kind in sums else x, kinds, made)

    def partition(mesh: Mesh, given: Any, made: Any) -> Any:
        if mesh.empty:  # arrays of several: the compiler has no names of axes then
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
                " ".join("b" if batch.get(kind) == place else next(fresh) for place in range(x.rank))
                for kind, x in zip(kinds, types, strict=True)
            )

        text = f"{side(jax.tree.leaves(arguments), given)} -> {side(result_kinds, made)}"
        whole = tuple(name for name in names[1:] if name in text.replace(",", "").split())
        return text, {"need_replication_factors": whole}

    call = custom_partitioning(summed)
    call.def_partition(partition, sharding_rule=rule)
    return sequential_vmap(call)


def _axes_of_batch(x: jax.ShapeDtypeStruct, place: int | None) -> tuple[str, ...]:
    """Returns the mesh's axes that split this dimension, none where its parts are not equal."""
    if place is None or not isinstance(x.sharding, NamedSharding) or len(x.sharding.spec) <= place:
        return ()
    names = x.sharding.spec[place]
    names = (names,) if isinstance(names, str) else tuple(names or ())
    return names if x.shape[place] % math.prod(x.sharding.mesh.shape[name] for name in names) == 0 else ()
