"""Sharding of activations, and of the kernels that compute them.

Without sharding constraints, the compiler may choose to exchange activations between devices. The functions here set
constraints in the context's mesh (`jax.sharding.use_abstract_mesh`). Without a mesh that has the axes data, fsdp and
tensor, they set no constraint, and kernels are partitioned along the compiler's sharding of their operands
(`distributed.partition`). Inside `jax.shard_map` and `jax.pmap` each device computes its own shard.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

import jax
from jax.sharding import AbstractMesh, PartitionSpec

from focalnet_jax.distributed.partition import partitioned
from focalnet_jax.errors import UserError

EXAMPLES = ("data", "fsdp")  # mesh axes that split a batch
CHANNELS = "tensor"  # mesh axis that splits the channels of wide layers
# Sharding of each kind of array, in a mesh with these axes.
_SPLIT = {
    "context": PartitionSpec(EXAMPLES, None, None, CHANNELS),  # [B, H, W, C]
    "gate": PartitionSpec(EXAMPLES),  # [B, H, W]
    "gates": PartitionSpec(EXAMPLES),  # [B, H, W, L + 1]
    "kernel": PartitionSpec(None, None, None, CHANNELS),  # [k, k, 1, C]
    "means": PartitionSpec(EXAMPLES, CHANNELS),  # [B, C]
    "bias": PartitionSpec(CHANNELS),  # [C]
    "gate parts": PartitionSpec(CHANNELS, EXAMPLES),  # [n, B, H, W]
    "examples": PartitionSpec(EXAMPLES),  # [B, ...]
    "whole": PartitionSpec(),
    # Parts of sums over B, which the caller adds up along n:
    "parts": PartitionSpec(EXAMPLES, None, None, None, CHANNELS),  # [n, ., k, k, C] or [n, k, k, 1, C]
    "bias parts": PartitionSpec(EXAMPLES, CHANNELS),  # [n, C]
    "sums": PartitionSpec(EXAMPLES),  # [n, ...]
}
# Dimension of B in each kind that has it, and the kinds that are parts of sums over B.
_BATCH = {"context": 0, "gate": 0, "gates": 0, "means": 0, "gate parts": 1, "examples": 0}
_SUMS = ("parts", "bias parts", "sums")


def by_example(x: jax.Array, *, channels: bool = False) -> jax.Array:
    """Returns `x` `[B, ..., C]` sharded along B, and also along C if `channels` is set."""
    return _constrained(x, PartitionSpec(EXAMPLES, *[None] * (x.ndim - 2), CHANNELS if channels else None))


def by_channel(kernel: jax.Array) -> jax.Array:
    """Returns a depthwise kernel `[k, k, 1, C]` sharded along C, like the maps that it convolves."""
    return _constrained(kernel, _SPLIT["kernel"])


def everywhere(x: jax.Array) -> jax.Array:
    """Returns `x` replicated, so that every device computes all of it."""
    return _constrained(x, PartitionSpec())


def on_each_device(function: Callable[..., Any], arguments: Any, result: Any) -> Callable[..., Any]:
    """Returns a function that computes `function` on each device's shard of the arguments.

    This is for kernels, which the compiler cannot partition. In a mesh with the axes data, fsdp and tensor, arguments
    and results are sharded like the results of `by_example` and `by_channel`; if an array cannot be split evenly, each
    device computes everything. Without such a mesh, B is split along the compiler's sharding of the arguments, over
    axes of any name (`distributed.partition`), and sums over B have one part.

    Args:
      function: function of arrays, which may be in trees.
      arguments: tree with the kind of each argument: "context" `[B, H, W, C]`, "gate" `[B, H, W]`, "gates"
        `[B, H, W, n]`, "kernel" `[k, k, 1, C]`, "bias" `[C]`, "means" `[B, C]`, "gate parts" `[n, B, H, W]`; and parts
        of sums over B, which the caller adds up along n: "parts" `[n, ..., C]`, "bias parts" `[n, C]`, "sums"
        `[n, ...]`. The kinds "examples" `[B, ...]` and "whole" (replicated) may stand for a tree of arrays.
      result: tree with the kind of each result.

    Raises:
      UserError: the returned function is differentiated. Kernels have no derivative rules, so the caller must define a
        rule.
    """
    mesh = _mesh()
    manual = jax.sharding.get_abstract_mesh().manual_axes

    def call(*given: Any) -> Any:
        names = jax.tree.broadcast(tuple(arguments), given)
        if mesh is None:
            alone = jax.device_count() == 1 or manual or all(map(_is_on_one_device, jax.tree.leaves(given)))
            return function(*given) if alone else partitioned(function, names, result, _BATCH, _SUMS)(*given)
        equal = all(jax.tree.leaves(jax.tree.map(partial(_has_equal_parts, mesh), names, given)))
        specs, out = (
            jax.tree.map(lambda name: _SPLIT[name if equal else "whole"], kind) for kind in (tuple(arguments), result)
        )
        return jax.shard_map(function, in_specs=specs, out_specs=out, check_vma=False)(*given)

    once = jax.custom_vjp(call)
    once.defvjp(_refuse, _refuse)
    return once


def on_own_examples(function: Callable[..., Any], kinds: Any = None) -> Callable[..., Any]:
    """Returns a function that computes `function` of arrays `[B, ...]`, each device its own examples.

    Sharding constraints are not enough for functions with sorts or loops: the compiler gathers the operands of some
    sorts on all devices, and exchanges the condition of a loop in each of its steps. In a mesh with the axes data, fsdp
    and tensor, the returned function cannot be differentiated, see `on_each_device`. Without such a mesh, the compiler
    partitions the function.

    Args:
      function: function of arrays, which may be in trees. Its results are `[B, ...]`, too.
      kinds: kind of each argument, see `on_each_device`; None for arrays `[B, ...]` only.
    """

    def call(*given: Any) -> Any:
        if _mesh() is None:
            return function(*given)
        return on_each_device(function, kinds or ("examples",) * len(given), "examples")(*given)

    return call


def map_examples(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns `jax.vmap(function)` of arrays `[B, ...]`, each device for its own examples, see `on_own_examples`."""
    return on_own_examples(jax.vmap(function))


def _refuse(*_: Any) -> NoReturn:
    raise UserError(
        "kernels have first derivatives only; for second derivatives, create the model with model.aggregation=xla and "
        "model.pointwise=xla"
    )


def _is_on_one_device(x: Any) -> bool:
    return not isinstance(x, jax.core.Tracer) and (not isinstance(x, jax.Array) or len(x.sharding.device_set) == 1)


def _has_equal_parts(mesh: AbstractMesh, name: str, x: jax.Array) -> bool:
    axes = ((axis,) if isinstance(axis, str) else axis or () for axis in _SPLIT[name])
    parts = (math.prod(mesh.shape[name] for name in names) for names in axes)
    return all(length % count == 0 for length, count in zip(x.shape, parts, strict=False))


def shape_on_each_device(x: jax.Array) -> tuple[int, ...]:
    """Returns the shape of a device's shard of `x` `[B, ..., C]`, sharded by `by_example` along B and C.

    Without a mesh, returns the shape of `x`.
    """
    mesh = _mesh()
    if mesh is None:
        return x.shape
    parts = mesh.shape[EXAMPLES[0]] * mesh.shape[EXAMPLES[1]]
    return (x.shape[0] // parts, *x.shape[1:-1], x.shape[-1] // mesh.shape[CHANNELS])


def allows_kernels(*arrays: jax.Array) -> bool:
    """Returns whether kernels can compute these arrays in the context's mesh.

    Kernels can if all axes are auto (`on_each_device` partitions them over these axes), or if all axes are manual.
    Kernels cannot if an axis of this mesh or of an array's mesh is explicit, because kernels lack sharding rules, or if
    only some axes are manual.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if _mesh() is not None:
        return True
    if mesh.manual_axes:
        return set(mesh.manual_axes) == set(mesh.axis_names)
    return not any(each.explicit_axes for each in (mesh, *(jax.typeof(x).sharding.mesh for x in arrays)))


def splits_channels() -> bool:
    """Returns whether the channels of wide layers are sharded over devices."""
    mesh = _mesh()
    return mesh is not None and mesh.shape[CHANNELS] > 1


def splits_weights() -> bool:
    """Returns whether the axis `fsdp` shards parameters over devices, which then gather them for each computation."""
    mesh = _mesh()
    return mesh is not None and mesh.shape[EXAMPLES[1]] > 1


def _constrained(x: jax.Array, spec: PartitionSpec) -> jax.Array:
    return x if _mesh() is None else jax.lax.with_sharding_constraint(x, spec)


def _mesh() -> AbstractMesh | None:
    """Returns the context's mesh if it has the axes data, fsdp and tensor and all its axes are auto, otherwise None."""
    mesh = jax.sharding.get_abstract_mesh()
    known = {*EXAMPLES, CHANNELS} <= set(mesh.axis_names) and not (mesh.manual_axes or mesh.explicit_axes)
    return mesh if known else None
