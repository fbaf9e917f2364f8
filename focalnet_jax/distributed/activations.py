"""Where the numbers of a computation lie, said to the compiler, which otherwise may choose to send activations around.

Without a mesh in the context (`jax.sharding.use_abstract_mesh`) nothing is said: a model by itself knows of none, and
kernels follow how the compiler splits what they are given (`partition`). The same holds in a mesh without the three
axes below. Inside `jax.shard_map` and `jax.pmap` a device has its part.
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

EXAMPLES = ("data", "fsdp")  # the axes of the mesh that split a batch
CHANNELS = "tensor"  # and the one that splits the channels of wide layers
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
    # Parts of sums, to be added up along n by who asked for them:
    "parts": PartitionSpec(EXAMPLES, None, None, None, CHANNELS),  # [n, ., k, k, C] or [n, k, k, 1, C]
    "bias parts": PartitionSpec(EXAMPLES, CHANNELS),  # [n, C]
    "sums": PartitionSpec(EXAMPLES),  # [n, ...]
}
# Which dimension of each kind is B, and which kinds are parts of sums over B.
_BATCH = {"context": 0, "gate": 0, "gates": 0, "means": 0, "gate parts": 1, "examples": 0}
_SUMS = ("parts", "bias parts", "sums")


def by_example(x: jax.Array, *, channels: bool = False) -> jax.Array:
    """`x` `[B, ..., C]` split along B, and with `channels` along C too."""
    return _placed(x, PartitionSpec(EXAMPLES, *[None] * (x.ndim - 2), CHANNELS if channels else None))


def by_channel(kernel: jax.Array) -> jax.Array:
    """A depthwise kernel `[k, k, 1, C]` split along C as its operand is."""
    return _placed(kernel, _SPLIT["kernel"])


def everywhere(x: jax.Array) -> jax.Array:
    """`x` whole on every device, each of which computes it."""
    return _placed(x, PartitionSpec())


def on_each_device(function: Callable[..., Any], arguments: Any, result: Any) -> Callable[..., Any]:
    """Returns `function` as it is computed on each device's part: for kernels, which the compiler cannot split.

    Arguments and result are trees of kinds: "context" `[B, H, W, C]`, "gate" `[B, H, W]`, "gates" `[B, H, W, n]`,
    "kernel" `[k, k, 1, C]`, "bias" `[C]`, "means" `[B, C]`, "gate parts" `[n, B, H, W]`, and, of sums over B, "parts"
    `[n, ..., C]`, "bias parts" `[n, C]` and "sums" `[n, ...]`, which the caller adds up along n. In a mesh of ours they
    are split as `by_example` and `by_channel` say. What is split by "examples" alone, `[B, ...]`, or is "whole" on
    every device may be a tree. Where an axis has no equal parts for all devices, each of them computes the whole.

    Without a mesh of ours, B is split as the compiler splits the arguments, over axes of any name (`partition`); of
    sums there is then one part.

    Raises:
      UserError: when the result is differentiated. Kernels have no rules for that; the caller has one of its own.
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
        "kernels have first derivatives alone: for second ones make the model with model.aggregation=xla and "
        "model.pointwise=xla"
    )


def _is_on_one_device(x: Any) -> bool:
    return not isinstance(x, jax.core.Tracer) and (not isinstance(x, jax.Array) or len(x.sharding.device_set) == 1)


def _has_equal_parts(mesh: AbstractMesh, name: str, x: jax.Array) -> bool:
    axes = ((axis,) if isinstance(axis, str) else axis or () for axis in _SPLIT[name])
    parts = (math.prod(mesh.shape[name] for name in names) for names in axes)
    return all(length % count == 0 for length, count in zip(x.shape, parts, strict=False))


def shape_on_each_device(x: jax.Array) -> tuple[int, ...]:
    """The shape of what a device holds of `x` `[B, ..., C]`, split as `by_example` says."""
    mesh = _mesh()
    if mesh is None:
        return x.shape
    parts = mesh.shape[EXAMPLES[0]] * mesh.shape[EXAMPLES[1]]
    return (x.shape[0] // parts, *x.shape[1:-1], x.shape[-1] // mesh.shape[CHANNELS])


def allows_kernels(*arrays: jax.Array) -> bool:
    """Returns whether kernels may be given these arrays here; if not, XLA's operations compute in their place.

    Not with explicit axes, which need the sharding of each result by rules that kernels lack, nor where only some of a
    mesh's axes are manual. Auto axes split kernels by `on_each_device`.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if _mesh() is not None:
        return True
    if mesh.manual_axes:
        return set(mesh.manual_axes) == set(mesh.axis_names)
    return not any(each.explicit_axes for each in (mesh, *(jax.typeof(x).sharding.mesh for x in arrays)))


def splits_channels() -> bool:
    """Whether the channels of wide layers lie on several devices."""
    mesh = _mesh()
    return mesh is not None and mesh.shape[CHANNELS] > 1


def splits_weights() -> bool:
    """Whether parameters lie on several devices, which gather them where they compute with them."""
    mesh = _mesh()
    return mesh is not None and mesh.shape[EXAMPLES[1]] > 1


def _placed(x: jax.Array, spec: PartitionSpec) -> jax.Array:
    return x if _mesh() is None else jax.lax.with_sharding_constraint(x, spec)


def _mesh() -> AbstractMesh | None:
    """The context's, if it is one whose axes are ours and the compiler's to split along."""
    mesh = jax.sharding.get_abstract_mesh()
    ours = {*EXAMPLES, CHANNELS} <= set(mesh.axis_names) and not (mesh.manual_axes or mesh.explicit_axes)
    return mesh if ours else None
