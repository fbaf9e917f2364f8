"""Where the numbers of a computation lie, said to the compiler, which otherwise may choose to send activations around.

Without a mesh in the context (`jax.sharding.use_abstract_mesh`) nothing is said: a model by itself knows of none. Nor
is it in a mesh without the three axes below, or inside `jax.shard_map` or `jax.pmap`, where a device has its part.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from jax.sharding import AbstractMesh, PartitionSpec

EXAMPLES = ("data", "fsdp")  # the axes of the mesh that split a batch
CHANNELS = "tensor"  # and the one that splits the channels of wide layers
_SPLIT = {
    "context": PartitionSpec(EXAMPLES, None, None, CHANNELS),  # [B, H, W, C]
    "gate": PartitionSpec(EXAMPLES),  # [B, H, W]
    "gates": PartitionSpec(EXAMPLES),  # [B, H, W, L + 1]
    "kernel": PartitionSpec(None, None, None, CHANNELS),  # [k, k, 1, C]
    "means": PartitionSpec(EXAMPLES, CHANNELS),  # [B, C], or parts of a bias [n, C]
    "bias": PartitionSpec(CHANNELS),  # [C]
    "gate parts": PartitionSpec(CHANNELS, EXAMPLES),  # [n, B, H, W]
    "examples": PartitionSpec(EXAMPLES),  # [B, ...]
    "whole": PartitionSpec(),
    "parts": PartitionSpec(EXAMPLES, None, None, None, CHANNELS),  # [n, ., k, k, C] or [n, k, k, 1, C]
}


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
    """`function` of what a device holds: for kernels, which the compiler cannot split.

    Arguments and result are trees of a "context" `[B, H, W, C]`, "gate" `[B, H, W]`, "gates" `[B, H, W, n]`, "kernel"
    `[k, k, 1, C]`, "means" `[B, C]`, or "parts" of kernels or gates, `[n, ...]` each; they are split as `by_example`
    and `by_channel` say. What is split by "examples" alone, `[B, ...]`, or "whole" on every device may be a tree.

    Where an axis has no equal parts for all devices, each of them computes the whole.
    """
    mesh = _mesh()
    if mesh is None:
        return function

    def call(*given: Any) -> Any:
        names = jax.tree.broadcast(tuple(arguments), given)
        equal = all(jax.tree.leaves(jax.tree.map(partial(_has_equal_parts, mesh), names, given)))
        specs, out = (
            jax.tree.map(lambda name: _SPLIT[name if equal else "whole"], kind) for kind in (tuple(arguments), result)
        )
        return jax.shard_map(function, in_specs=specs, out_specs=out, check_vma=False)(*given)

    return call


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


def knows_devices() -> bool:
    """Whether it is known here what each device holds: there is one alone, or the context has a mesh of ours."""
    return _mesh() is not None or jax.device_count() == 1


def holds_whole(x: jax.Array) -> bool:
    """Whether what a kernel is given of `x` here is all that there is, or a part that this module knows.

    Not where `x` may be split by a mesh that is not ours: the compiler would gather all of it for a kernel on every
    device, and explicit axes would need the kernel's sharding rules. XLA's own operations it splits.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if _mesh() is not None or (mesh.axis_names and set(mesh.manual_axes) == set(mesh.axis_names)):
        return True
    return not jax.typeof(x).sharding.mesh.explicit_axes and jax.device_count() == 1


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
