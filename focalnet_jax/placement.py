"""Where the numbers of a computation lie, said to the compiler, which otherwise may choose to send activations around.

Without a mesh in the context (`jax.sharding.use_abstract_mesh`) nothing is said: a model by itself knows of none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import PartitionSpec

EXAMPLES = ("data", "fsdp")  # the axes of the mesh that split a batch
PARAMETERS = "fsdp"  # the one that splits parameters too
LEAST = 4096  # numbers of a parameter that is split; to gather less than that costs more than it saves
CHANNELS = "tensor"  # and the one that splits the channels of wide layers
_SPLIT = {
    "context": PartitionSpec(EXAMPLES, None, None, CHANNELS),  # [B, H, W, C]
    "gate": PartitionSpec(EXAMPLES),  # [B, H, W]
    "gates": PartitionSpec(EXAMPLES),  # [B, H, W, L + 1]
    "kernel": PartitionSpec(None, None, None, CHANNELS),  # [k, k, 1, C]
    "means": PartitionSpec(EXAMPLES, CHANNELS),  # [B, C]
    "gate parts": PartitionSpec(CHANNELS, EXAMPLES),  # [n, B, H, W]
    "examples": PartitionSpec(EXAMPLES),  # [B, ...]
    "whole": PartitionSpec(),
    "rows": PartitionSpec(PARAMETERS),  # [C, ...]
    "columns": PartitionSpec(None, PARAMETERS),  # [C, D]
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
    By "rows" and "columns" parameters are split.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return function
    specs, out = (jax.tree.map(_SPLIT.__getitem__, names) for names in (tuple(arguments), result))
    return jax.shard_map(function, in_specs=specs, out_specs=out, check_vma=False)


def shape_on_each_device(x: jax.Array) -> tuple[int, ...]:
    """The shape of what a device holds of `x` `[B, ..., C]`, split as `by_example` says."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x.shape
    parts = mesh.shape[EXAMPLES[0]] * mesh.shape[EXAMPLES[1]]
    return (x.shape[0] // parts, *x.shape[1:-1], x.shape[-1] // mesh.shape[CHANNELS])


def longest_axis(shape: tuple[int, ...], parts: int) -> int | None:
    """The axis of a parameter that `fsdp` splits: the longest, and first, that is divisible."""
    return max((axis for axis, length in enumerate(shape) if length % parts == 0), key=shape.__getitem__, default=None)


def lies(parameter: jax.Array) -> str:
    """How a matrix of a layer, or a vector, lies on devices: for `on_each_device`."""
    axis = _split_axis(parameter)
    return "whole" if axis is None else ("rows", "columns")[axis]


def sum_of_devices(gradient: jax.Array) -> jax.Array:
    """Inside `on_each_device`: the sum of a matrix's gradients on all devices, or a vector's, where it `lies`.

    Each sums the part of it whose parameters it has, which takes half of what a whole sum sends.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return gradient
    axis = _split_axis(gradient)
    if axis is None:
        return jax.lax.psum(gradient, EXAMPLES)
    part = jax.lax.psum_scatter(gradient, PARAMETERS, scatter_dimension=axis, tiled=True)
    return jax.lax.psum(part, EXAMPLES[0])


def _split_axis(parameter: jax.Array) -> int | None:
    mesh = jax.sharding.get_abstract_mesh()
    if parameter.size < LEAST or mesh.empty or mesh.shape[PARAMETERS] == 1:
        return None
    return longest_axis(parameter.shape, mesh.shape[PARAMETERS])


def splits_channels() -> bool:
    """Whether the channels of wide layers lie on several devices."""
    mesh = jax.sharding.get_abstract_mesh()
    return not mesh.empty and mesh.shape[CHANNELS] > 1


def _placed(x: jax.Array, spec: PartitionSpec) -> jax.Array:
    return x if jax.sharding.get_abstract_mesh().empty else jax.lax.with_sharding_constraint(x, spec)
