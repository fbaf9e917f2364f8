"""Sharding constraints on activations; without them the compiler may choose to exchange activations between devices.

Without a mesh in the context (`jax.sharding.use_abstract_mesh`) no constraint is set, and kernels are partitioned along
the compiler's sharding of their operands (`distributed.partition`). The same holds in a mesh without the three axes
below. Inside `jax.shard_map` and `jax.pmap` each device computes its own shard.
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
    # Parts of sums, which the caller adds up along n:
    "parts": PartitionSpec(EXAMPLES, None, None, None, CHANNELS),  # [n, ., k, k, C] or [n, k, k, 1, C]
    "bias parts": PartitionSpec(EXAMPLES, CHANNELS),  # [n, C]
    "sums": PartitionSpec(EXAMPLES),  # [n, ...]
}
# Position of B in each kind, and the kinds that are parts of sums over B.
_BATCH = {"context": 0, "gate": 0, "gates": 0, "means": 0, "gate parts": 1, "examples": 0}
_SUMS = ("parts", "bias parts", "sums")


def by_example(x: jax.Array, *, channels: bool = False) -> jax.Array:
    """Returns `x` `[B, ..., C]` sharded along B, and with `channels` also along C."""
    return _constrained(x, PartitionSpec(EXAMPLES, *[None] * (x.ndim - 2), CHANNELS if channels else None))


def by_channel(kernel: jax.Array) -> jax.Array:
    """Returns a depthwise kernel `[k, k, 1, C]` sharded along C, like its operand."""
    return _constrained(kernel, _SPLIT["kernel"])


def everywhere(x: jax.Array) -> jax.Array:
    """Returns `x` replicated: every device computes all of it."""
    return _constrained(x, PartitionSpec())


def on_each_device(function: Callable[..., Any], arguments: Any, result: Any) -> Callable[..., Any]:
    """Returns `function` computed on each device's shard; for kernels, which the compiler cannot partition.

    In a mesh with the three axes, arguments and results are sharded as in `by_example` and `by_channel`. If an axis
    does not divide evenly over the devices, each of them computes everything. Without such a mesh, B is split along the
    compiler's sharding of the arguments, over axes of any name (`distributed.partition`); sums then have one part.

    Args:
      function: computes `result` from `arguments`.
      arguments: tree of kinds: "context" `[B, H, W, C]`, "gate" `[B, H, W]`, "gates" `[B, H, W, n]`, "kernel"
        `[k, k, 1, C]`, "bias" `[C]`, "means" `[B, C]`, "gate parts" `[n, B, H, W]`; and parts of sums over B, which the
        caller adds up along n: "parts" `[n, ..., C]`, "bias parts" `[n, C]`, "sums" `[n, ...]`. The kinds "examples"
        `[B, ...]` and "whole" (replicated) may stand for a tree of arrays.
      result: tree of kinds of the results.

    Raises:
      UserError: the result is differentiated; kernels have no derivative rules, the caller must define its own.
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


def _refuse(*_: Any) -> NoReturn:
    raise UserError(
        "kernels have first derivatives only: for second ones create the model with model.aggregation=xla and "
        "model.pointwise=xla"
    )


def _is_on_one_device(x: Any) -> bool:
    return not isinstance(x, jax.core.Tracer) and (not isinstance(x, jax.Array) or len(x.sharding.device_set) == 1)


def _has_equal_parts(mesh: AbstractMesh, name: str, x: jax.Array) -> bool:
    axes = ((axis,) if isinstance(axis, str) else axis or () for axis in _SPLIT[name])
    parts = (math.prod(mesh.shape[name] for name in names) for names in axes)
    return all(length % count == 0 for length, count in zip(x.shape, parts, strict=False))


def shape_on_each_device(x: jax.Array) -> tuple[int, ...]:
    """Returns the shape of a device's shard of `x` `[B, ..., C]`, sharded along B and C as by `by_example`."""
    mesh = _mesh()
    if mesh is None:
        return x.shape
    parts = mesh.shape[EXAMPLES[0]] * mesh.shape[EXAMPLES[1]]
    return (x.shape[0] // parts, *x.shape[1:-1], x.shape[-1] // mesh.shape[CHANNELS])


def allows_kernels(*arrays: jax.Array) -> bool:
    """Returns whether kernels can compute with these arrays in this context; if not, XLA's operations are used.

    They cannot with explicit axes, which need sharding rules that kernels lack, or if only some axes of a mesh are
    manual. With auto axes, `on_each_device` partitions kernels.
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
    """Returns whether parameters are sharded over devices, which gather them for each computation."""
    mesh = _mesh()
    return mesh is not None and mesh.shape[EXAMPLES[1]] > 1


def _constrained(x: jax.Array, spec: PartitionSpec) -> jax.Array:
    return x if _mesh() is None else jax.lax.with_sharding_constraint(x, spec)


def _mesh() -> AbstractMesh | None:
    """Returns the context's mesh if it has the three axes, none of its axes being manual or explicit; else None."""
    mesh = jax.sharding.get_abstract_mesh()
    known = {*EXAMPLES, CHANNELS} <= set(mesh.axis_names) and not (mesh.manual_axes or mesh.explicit_axes)
    return mesh if known else None
