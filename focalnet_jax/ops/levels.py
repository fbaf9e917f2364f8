"""Gated sums of the focal levels by each implementation, with their gradients.

Only `sum_in_cpp` includes the global level; `aggregation.py` adds it to the results of the other functions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from focalnet_jax.distributed.activations import on_each_device
from focalnet_jax.ops import mosaic, native, triton
from focalnet_jax.ops.depthwise import depthwise_conv
from focalnet_jax.ops.gelu import activate
from focalnet_jax.ops.rules import with_rule

LEVELS = "focal levels"  # name of the levels' results in rematerialization policies (`checkpoint_name`)


def xla_level(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Returns the context of a level from that of the previous level, both `[B, H, W, C]`, by XLA's operations."""
    return activate(depthwise_conv(x, kernel))


def sum_levels(
    context: jax.Array,
    gates: jax.Array,
    kernels: Sequence[jax.Array],
    level_of: Callable[[jax.Array, jax.Array], jax.Array],
) -> tuple[jax.Array, jax.Array]:
    """Returns the gated sum of the levels, `[B, H, W, C]`, and the context of the last level, `[B, H, W, C]`.

    `level_of(context, kernel)` computes a level from the context of the previous level.
    """
    total = jnp.zeros_like(context)
    for level, kernel in enumerate(kernels):
        context = checkpoint_name(level_of(context, kernel), LEVELS)
        total += context * gates[..., level, None]
    return total, context


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def sum_in_cpp(
    context: jax.Array, gates: jax.Array, kernels: tuple[jax.Array, ...], bias: jax.Array, scale: float
) -> jax.Array:
    """Returns `scale` times the gated sum of all levels including the global level, computed in C++.

    The kernel computes a few channels at a time, which fit in a CPU's cache.
    """
    sum_of = on_each_device(
        partial(native.focal_levels, scale=scale), ("context", "gates", _kinds(kernels), "kernel"), "context"
    )
    return checkpoint_name(sum_of(context, gates, kernels, bias), LEVELS)


def _gradients_at_once(scale: float, kept: Any, cotangent: jax.Array) -> tuple[Any, ...]:
    context, gates, kernels, bias = kept
    gradients_of = on_each_device(
        partial(native.focal_level_gradients, scale=scale),
        ("context", "gates", _kinds(kernels), "kernel", "context"),
        ("context", "gate parts", tuple("parts" for _ in (*kernels, bias))),
    )
    to_context, gate_parts, parts = gradients_of(context, gates, kernels, bias, cotangent)
    *to_kernels, to_bias = (part.sum(axis=0) for part in parts)
    return to_context, gate_parts.sum(axis=0), tuple(to_kernels), to_bias


sum_in_cpp.defvjp(lambda *given: (sum_in_cpp(*given), given[:-1]), _gradients_at_once)


def _kinds(kernels: Sequence[jax.Array]) -> tuple[str, ...]:
    return tuple("kernel" for _ in kernels)


@partial(with_rule, nondiff_argnums=(3,))
def levels_in_kernels(
    context: jax.Array, gates: jax.Array, kernels: tuple[jax.Array, ...], interpret: bool
) -> tuple[jax.Array, jax.Array]:
    """Returns the same as `sum_levels`, with one kernel per level on NVIDIA GPUs."""
    return _forward(context, gates, kernels, interpret)[0]


def _forward(
    context: jax.Array, gates: jax.Array, kernels: tuple[jax.Array, ...], interpret: bool
) -> tuple[tuple[jax.Array, jax.Array], tuple[list[jax.Array], jax.Array, tuple[jax.Array, ...]]]:
    level_of = on_each_device(partial(triton.focal_level, interpret=interpret), ("context", "kernel"), "context")
    contexts = [context]
    for kernel in kernels:
        contexts.append(level_of(contexts[-1], kernel))
    total = jnp.zeros_like(context)
    for level, each in enumerate(contexts[1:]):
        total += each * gates[..., level, None]
    return (total, contexts[-1]), (contexts, gates, kernels)


def _backward(
    interpret: bool,
    saved: tuple[list[jax.Array], jax.Array, tuple[jax.Array, ...]],
    cotangents: tuple[jax.Array, jax.Array],
) -> tuple[jax.Array, jax.Array, tuple[jax.Array, ...]]:
    contexts, gates, kernels = saved
    slope_of = on_each_device(
        partial(triton.preactivation_gradient, interpret=interpret),
        ("context", "kernel", "context", "gate", "context"),
        "context",
    )
    back_of = on_each_device(partial(triton.input_gradient, interpret=interpret), ("context", "kernel"), "context")
    cotangent, above = cotangents
    wide = cotangent.astype(jnp.float32)
    gate_gradients = [(wide * each).sum(axis=-1) for each in contexts[1:]]  # [B, H, W] each
    kernel_gradients = []
    for level in reversed(range(len(kernels))):
        kernel, below = kernels[level], contexts[level]
        gradient = slope_of(below, kernel, cotangent, gates[..., level], above)
        parts_of = on_each_device(
            partial(triton.kernel_gradient_parts, k=len(kernel), interpret=interpret), ("context", "context"), "parts"
        )
        kernel_gradients.append(parts_of(below, gradient).sum(axis=(0, 1))[:, :, None].astype(kernel.dtype))
        above = back_of(gradient, kernel)
    return above, _with_global(gate_gradients, gates), tuple(reversed(kernel_gradients))


levels_in_kernels.defvjp(_forward, _backward)


def _with_global(gradients: Sequence[jax.Array], gates: jax.Array) -> jax.Array:
    """Returns the gradient of the gates, `[B, H, W, L + 1]`, from the gradient of each level's gate, `[B, H, W]`.

    For the gate of the global level it is zero.
    """
    return jnp.stack([*gradients, jnp.zeros_like(gradients[0])], axis=-1).astype(gates.dtype)


@partial(with_rule, nondiff_argnums=(4, 5))
def levels_in_passes(
    context: jax.Array,
    gates: jax.Array,
    kernels: tuple[jax.Array, ...],
    bias: jax.Array,  # [1, 1, 1, C]
    vmem: int,
    interpret: bool,
) -> tuple[jax.Array, jax.Array]:
    """Returns the gated sum of the levels, and the sum of the last level over H and W, `[B, C]` float32, on TPUs.

    One kernel computes all levels in one pass over the context, and another all their gradients.
    """
    return _pass_forward(context, gates, kernels, bias, vmem, interpret, keep=False)[0]


def _pass_forward(
    context: jax.Array,
    gates: jax.Array,
    kernels: tuple[jax.Array, ...],
    bias: jax.Array,
    vmem: int,
    interpret: bool,
    keep: bool = True,
) -> tuple[tuple[jax.Array, jax.Array], Any]:
    """Returns the result of `levels_in_passes`, and the values that the gradients need (complete only with `keep`)."""
    levels_of = on_each_device(
        partial(mosaic.focal_levels, keep=keep, vmem=vmem, interpret=interpret),
        ("context", "gates", _kinds(kernels), "kernel"),
        ("context", "means", tuple("context" for _ in kernels if keep)),
    )
    total, last, kept = jax.tree.map(lambda x: checkpoint_name(x, LEVELS), levels_of(context, gates, kernels, bias))
    return (total, last), (context, gates, kernels, bias, kept)


def _pass_backward(vmem: int, interpret: bool, saved: Any, cotangents: tuple[jax.Array, jax.Array]) -> tuple[Any, ...]:
    context, gates, kernels, bias, kept = saved
    gradients_of = on_each_device(
        partial(mosaic.focal_level_gradients, vmem=vmem, interpret=interpret),
        ("context", "gates", _kinds(kernels), "kernel", tuple("context" for _ in kept), "context", "means"),
        ("context", tuple("parts" for _ in (*kernels, bias)), tuple("gate parts" for _ in kernels)),
    )
    to_context, parts, gate_parts = gradients_of(context, gates, kernels, bias, kept, *cotangents)
    *to_kernels, to_bias = (part.sum(axis=0).astype(of.dtype) for part, of in zip(parts, (*kernels, bias), strict=True))
    to_gates = _with_global([part.sum(axis=0) for part in gate_parts], gates)
    return to_context, to_gates, tuple(to_kernels), to_bias


levels_in_passes.defvjp(_pass_forward, _pass_backward)
