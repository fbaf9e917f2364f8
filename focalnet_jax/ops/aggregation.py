"""Gated aggregation of the context over all focal levels (paper section 3.2, equations 5 and 6)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from focalnet_jax.distributed.activations import allows_kernels, on_each_device, shape_on_each_device
from focalnet_jax.ops import mosaic, native, pointwise, triton
from focalnet_jax.ops.depthwise import depthwise_conv
from focalnet_jax.ops.gelu import activate
from focalnet_jax.ops.implementations import IMPLEMENTATIONS
from focalnet_jax.ops.rules import with_rule
from focalnet_jax.ops.shifted import focal_level

LEVELS = "focal levels"  # name of the levels' results in rematerialization policies (`checkpoint_name`)


def aggregate_context(
    context: jax.Array,
    gates: jax.Array,
    kernels: Sequence[jax.Array],
    bias: jax.Array | None = None,
    *,
    normalize: bool = False,
    implementation: str = "xla",
) -> jax.Array:
    """Returns the sum of the focal levels' contexts, each multiplied by its gate (paper equations 5 and 6).

    Level l is GELU(depthwise convolution) of level l - 1; the global level is GELU of the last level's mean over H
    and W. GELU is exact (erf), not its tanh approximation; gates have no activation.

    Args:
      context: context `[B, H, W, C]`; level 0 is the context plus the bias.
      gates: gates `[B, H, W, L + 1]`; the last gate belongs to the global level.
      kernels: L depthwise kernels, `[k_l, k_l, 1, C]`, k_l odd.
      bias: bias `[C]`, or None for no bias. It is added here, because some implementations add it and sum its gradient
        at almost no cost.
      normalize: whether to divide the sum by L + 1.
      implementation: "xla" for XLA's operations; "shifted" for the XLA operations that are fastest on CPUs; "native",
        "triton" or "mosaic" for kernels on CPUs, NVIDIA GPUs or TPUs. XLA computes shapes, kernel sizes and dtypes
        that these kernels do not support, and everything in meshes that do not allow kernels.

    Returns:
      `[B, H, W, C]` in the dtype of `context`.

    Raises:
      ValueError: an array has a wrong shape, or the implementation is unknown.
    """
    _check(context, gates, kernels, bias, implementation)
    if not allows_kernels(context):
        implementation = "xla"
    if context.size == 0:  # the kernels expect at least one position and channel
        return jnp.zeros_like(context)
    given = (context, gates, *kernels, *([] if bias is None else [bias]))
    alike = all(x.dtype == context.dtype for x in given)
    if implementation == "native" and alike and native.supports(context.dtype, [len(kernel) for kernel in kernels]):
        scale = 1 / (len(kernels) + 1) if normalize else 1.0
        return _sum_at_once(context, gates, tuple(kernels), _bias_of(context, bias), scale)
    total, global_context = aggregate_levels(context, gates, kernels, bias, implementation=implementation)
    if pointwise.suits(implementation, context.dtype):
        total = _add_in_kernel(total, gates, global_context.astype(jnp.float32), False)
    else:
        total += global_context[:, None, None] * gates[..., -1, None]
    return total / (len(kernels) + 1) if normalize else total


@partial(with_rule, nondiff_argnums=(3,))
def _add_in_kernel(total: jax.Array, gates: jax.Array, global_context: jax.Array, interpret: bool) -> jax.Array:
    """Adds the gated global level, `[B, C]` float32, to the sum of the other levels, `[B, H, W, C]`."""
    return _global_level((total, gates), global_context, interpret)


def _global_level(maps: tuple[jax.Array, ...], global_context: jax.Array, interpret: bool) -> jax.Array:
    channels, vmem = global_context.shape[-1:], mosaic.fast_memory()
    layers = pointwise.Layers(_gated, channels, "global_level", vmem, interpret=interpret)
    return pointwise.run_layers(layers, {}, maps, (global_context,))[0]


def _gated(weights: pointwise.Weights, *rows: jax.Array) -> tuple[jax.Array]:
    del weights
    *total, gates, global_context = rows
    return (sum(total, global_context * gates[:, -1:]),)


def _add_back(interpret: bool, kept: tuple[jax.Array, jax.Array], cotangent: jax.Array) -> tuple[jax.Array, ...]:
    _, back = jax.vjp(lambda gates, of: _global_level((gates,), of, interpret), *kept)
    return cotangent, *back(cotangent)  # the gradient of `total` is the cotangent, so the kernel does not copy it


_add_in_kernel.defvjp(
    lambda total, gates, of, interpret: (_add_in_kernel(total, gates, of, interpret), (gates, of)), _add_back
)


def aggregate_levels(
    context: jax.Array,
    gates: jax.Array,
    kernels: Sequence[jax.Array],
    bias: jax.Array | None = None,
    *,
    implementation: str = "xla",
) -> tuple[jax.Array, jax.Array]:
    """Returns the gated sum of all levels but the global level, `[B, H, W, C]`, and the global level, `[B, C]`.

    The global level is not multiplied by its gate. For the arguments and errors, see `aggregate_context`.
    """
    _check(context, gates, kernels, bias, implementation)
    sizes = [len(kernel) for kernel in kernels]
    shape = shape_on_each_device(context)
    bias = _bias_of(context, bias)
    vmem = mosaic.fast_memory() if implementation == "mosaic" else 0
    if vmem and mosaic.supports(shape, sizes, context.dtype.itemsize, vmem):
        total, last_sum = _levels_in_passes(context, gates, tuple(kernels), bias, vmem, False)
        return total, activate((last_sum / (context.shape[1] * context.shape[2])).astype(context.dtype))
    if implementation == "triton" and triton.supports(shape[-1], sizes):
        total, last = _levels_in_kernels(context + bias, gates, tuple(kernels), False)
    else:
        level_of = focal_level if implementation in ("shifted", "native") else _level
        total, last = _levels(context + bias, gates, kernels, level_of)
    return total, activate(jnp.mean(last, axis=(1, 2), dtype=jnp.float32).astype(context.dtype))


def _check(
    context: jax.Array, gates: jax.Array, kernels: Sequence[jax.Array], bias: jax.Array | None, implementation: str
) -> None:
    """Raises `ValueError` if shapes do not fit each other, because C++ would read past the end of an array."""
    known = ("xla", *IMPLEMENTATIONS["aggregation"])
    if implementation not in known:
        raise ValueError(f"implementation is {implementation!r}; expected one of {', '.join(known)}")
    if context.ndim != 4:
        raise ValueError(f"context has shape {context.shape}; expected [B, H, W, C]")
    channels = context.shape[-1]
    if gates.shape != (expected := (*context.shape[:3], len(kernels) + 1)):
        levels = f"{len(kernels)} levels and the global level"
        raise ValueError(f"gates have shape {gates.shape}; expected {expected} for {levels}")
    for kernel in kernels:
        if kernel.shape != (len(kernel), len(kernel), 1, channels) or len(kernel) % 2 == 0:
            raise ValueError(f"a kernel has shape {kernel.shape}; expected [k, k, 1, {channels}] with odd k")
    if bias is not None and bias.shape != (channels,):
        raise ValueError(f"bias has shape {bias.shape}; expected {(channels,)}")


def _bias_of(context: jax.Array, bias: jax.Array | None) -> jax.Array:
    """Returns the bias as `[1, 1, 1, C]`, or zeros if it is None."""
    return jnp.zeros((1, 1, 1, context.shape[-1]), context.dtype) if bias is None else bias[None, None, None]


def _level(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return activate(depthwise_conv(x, kernel))


def _levels(
    context: jax.Array,
    gates: jax.Array,
    kernels: Sequence[jax.Array],
    level_of: Callable[[jax.Array, jax.Array], jax.Array],
) -> tuple[jax.Array, jax.Array]:
    """Returns the gated sum of the levels, `[B, H, W, C]`, and the context of the last level, `[B, H, W, C]`."""
    total = jnp.zeros_like(context)
    for level, kernel in enumerate(kernels):
        context = checkpoint_name(level_of(context, kernel), LEVELS)
        total += context * gates[..., level, None]
    return total, context


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _sum_at_once(
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


_sum_at_once.defvjp(lambda *given: (_sum_at_once(*given), given[:-1]), _gradients_at_once)


def _kinds(kernels: Sequence[jax.Array]) -> tuple[str, ...]:
    return tuple("kernel" for _ in kernels)


@partial(with_rule, nondiff_argnums=(3,))
def _levels_in_kernels(
    context: jax.Array, gates: jax.Array, kernels: tuple[jax.Array, ...], interpret: bool
) -> tuple[jax.Array, jax.Array]:
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


_levels_in_kernels.defvjp(_forward, _backward)


def _with_global(gradients: Sequence[jax.Array], gates: jax.Array) -> jax.Array:
    """Returns the gradient of the gates, `[B, H, W, L + 1]`, from the gradient of each level's gate, `[B, H, W]`.

    For the gate of the global level it is zero.
    """
    return jnp.stack([*gradients, jnp.zeros_like(gradients[0])], axis=-1).astype(gates.dtype)


@partial(with_rule, nondiff_argnums=(4, 5))
def _levels_in_passes(
    context: jax.Array,
    gates: jax.Array,
    kernels: tuple[jax.Array, ...],
    bias: jax.Array,  # [1, 1, 1, C]
    vmem: int,
    interpret: bool,
) -> tuple[jax.Array, jax.Array]:
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
    """Returns the gated sum of the levels, and the sum of the last level over H and W, `[B, C]` float32."""
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


_levels_in_passes.defvjp(_pass_forward, _pass_backward)
