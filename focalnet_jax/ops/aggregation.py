"""Gated aggregation of the context over all focal levels (paper section 3.2, equations 5 and 6)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp

from focalnet_jax.distributed.activations import allows_kernels, shape_on_each_device
from focalnet_jax.ops import mosaic, native, pointwise, triton
from focalnet_jax.ops.gelu import activate
from focalnet_jax.ops.implementations import IMPLEMENTATIONS
from focalnet_jax.ops.levels import levels_in_kernels, levels_in_passes, sum_in_cpp, sum_levels, xla_level
from focalnet_jax.ops.mosaic.layers import Layers, Weights
from focalnet_jax.ops.rules import with_rule
from focalnet_jax.ops.shifted import focal_level

# Shares of fast memory that the kernels for TPUs may use. The larger share is used only if the smaller is not enough,
# as for the wide maps of detection. Without these kernels, the compiler takes minutes for each of their convolutions.
_SHARES = (0.5, 0.75)


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
        return sum_in_cpp(context, gates, tuple(kernels), _bias_of(context, bias), scale)
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
    layers = Layers(_gated, channels, "global_level", vmem, interpret=interpret)
    return pointwise.run_layers(layers, {}, maps, (global_context,))[0]


def _gated(weights: Weights, *rows: jax.Array) -> tuple[jax.Array]:
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
    """Returns the gated sum of all levels except the global level, `[B, H, W, C]`, and the global level, `[B, C]`.

    The global level is not multiplied by its gate. For the arguments and errors, see `aggregate_context`.
    """
    _check(context, gates, kernels, bias, implementation)
    sizes = [len(kernel) for kernel in kernels]
    shape = shape_on_each_device(context)
    bias = _bias_of(context, bias)
    shares = _SHARES if implementation == "mosaic" else ()
    possible = (mosaic.fast_memory(share) for share in shares)
    vmem = next((size for size in possible if mosaic.supports(shape, sizes, context.dtype.itemsize, size)), None)
    if vmem is not None:
        total, last_sum = levels_in_passes(context, gates, tuple(kernels), bias, vmem, False)
        return total, activate((last_sum / (context.shape[1] * context.shape[2])).astype(context.dtype))
    if implementation == "triton" and triton.supports(shape[-1], sizes):
        total, last = levels_in_kernels(context + bias, gates, tuple(kernels), False)
    else:
        level_of = focal_level if implementation in ("shifted", "native") else xla_level
        total, last = sum_levels(context + bias, gates, kernels, level_of)
    return total, activate(jnp.mean(last, axis=(1, 2), dtype=jnp.float32).astype(context.dtype))


def _check(
    context: jax.Array, gates: jax.Array, kernels: Sequence[jax.Array], bias: jax.Array | None, implementation: str
) -> None:
    """Raises `ValueError` if the implementation is unknown or shapes do not fit: C++ would read past an array's end."""
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
