"""Calls the C++ kernels for CPUs, which compute in float32.

The kernels are the context aggregation (levels.h), LayerNorm and GELU (rows.h), and matrix products (products.h).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from focalnet_jax.ops.native.build import (
    CHANNELS_OF_TASK,
    COLUMNS_OF_SUM,
    COLUMNS_OF_TILES,
    DEPTH_OF_PRODUCT,
    NUMBERS_OF_TASK,
    ROWS_OF_SUM,
    TASKS_OF_PRODUCT,
    register,
    why_not,
)

__all__ = [
    "computes",
    "focal_level_gradients",
    "focal_levels",
    "gelu",
    "gelu_gradients",
    "layer_norm",
    "layer_norm_gradients",
    "product",
    "register",
    "supports",
    "transposed_product",
    "why_not",
]


def computes(dtype: jnp.dtype | None) -> bool:
    """Returns whether the kernels support this dtype (only float32) and can be compiled on this machine.

    Args:
      dtype: dtype of the arrays, or None (not supported) if a layer has no fixed dtype.
    """
    return dtype == jnp.float32 and register() is not None


def supports(dtype: jnp.dtype | None, kernel_sizes: Sequence[int]) -> bool:
    """Returns whether the kernels can aggregate contexts of this dtype with these kernel sizes, on this machine."""
    return len(kernel_sizes) > 0 and all(k % 2 for k in kernel_sizes) and computes(dtype)


def focal_levels(
    context: jax.Array, gates: jax.Array, kernels: Sequence[jax.Array], bias: jax.Array, *, scale: float
) -> jax.Array:
    """Returns `scale` times the gated sum `[B, H, W, C]` of the contexts of all levels, including the global level.

    Args:
      context: `[B, H, W, C]` float32. The first level is GELU of the depthwise convolution of `context + bias`; each
        further level is GELU of the depthwise convolution of the level before it.
      gates: gates `[B, H, W, L + 1]`; the last one is for the global level.
      kernels: L depthwise kernels, `[k_l, k_l, 1, C]`, k_l odd.
      bias: bias `[1, 1, 1, C]`.
      scale: factor of the sum.
    """
    call = _call("focal_levels", jax.ShapeDtypeStruct(context.shape, context.dtype))
    return call(context, gates, _rows(kernels), bias, **_attributes(kernels, scale))


def focal_level_gradients(
    context: jax.Array,
    gates: jax.Array,
    kernels: Sequence[jax.Array],
    bias: jax.Array,
    cotangent: jax.Array,
    *,
    scale: float,
) -> tuple[jax.Array, jax.Array, tuple[jax.Array, ...]]:
    """Returns the gradients of `focal_levels`, some of them in parts that the caller adds up along the leading axis.

    The number of parts depends only on shapes, so results do not depend on the number of threads.

    Args:
      context: argument of `focal_levels`.
      gates: argument of `focal_levels`.
      kernels: argument of `focal_levels`.
      bias: argument of `focal_levels`.
      cotangent: gradient of the result of `focal_levels`, `[B, H, W, C]`.
      scale: argument of `focal_levels`.

    Returns:
      The gradient of the context, `[B, H, W, C]`; parts of the gradient of the gates, `[n, B, H, W, L + 1]`; and a
      tuple with parts of the gradient of each kernel, `[B, k_l, k_l, 1, C]`, and of the bias, `[B, 1, 1, 1, C]`.
    """
    batch, height, width, channels = context.shape
    rows = _rows(kernels)
    shapes = (
        context.shape,
        (-(-channels // CHANNELS_OF_TASK), batch, height, width, len(kernels) + 1),
        (batch, len(rows) + 1, channels),
    )
    call = _call("focal_level_gradients", tuple(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes))
    to_context, to_gates, to_rows = call(context, gates, rows, bias, cotangent, **_attributes(kernels, scale))
    sizes = [*(len(kernel) for kernel in kernels), 1]
    parts = jnp.split(to_rows, np.cumsum([k * k for k in sizes])[:-1], axis=1)
    shaped = (part.reshape(batch, k, k, 1, channels) for part, k in zip(parts, sizes, strict=True))
    return to_context, to_gates, tuple(shaped)


def gelu(x: jax.Array, bias: jax.Array) -> jax.Array:
    """Returns exact GELU of `x + bias`, with errors up to 3e-7 |x + bias|, for `x` `[..., C]` and `bias` `[C]`."""
    return _call("gelu_with_bias", _like(x))(x, bias)


def gelu_gradients(x: jax.Array, bias: jax.Array, cotangent: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the gradients of `x` and `bias`, and `gelu(x, bias)`.

    The gradient of `bias` is `[n, C]`; the caller adds it up along n.
    """
    parts = jax.ShapeDtypeStruct((_tasks(*_rows_of(x)), x.shape[-1]), x.dtype)
    call = _call("gelu_gradients", (_like(x), parts, _like(x)))
    return call(x, bias, cotangent)


def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, *, epsilon: float) -> jax.Array:
    """Returns LayerNorm over C of `x` `[..., C]`, with `scale` and `bias` `[C]`, all float32."""
    return _call("layer_norm", _like(x))(x, scale, bias, epsilon=np.float32(epsilon))


def layer_norm_gradients(
    x: jax.Array, scale: jax.Array, cotangent: jax.Array, *, epsilon: float
) -> tuple[jax.Array, jax.Array]:
    """Returns the gradients of `x`, and of scale and bias.

    The gradients of scale and bias are `[n, 2, C]`; the caller adds them up along n.
    """
    rows, channels = _rows_of(x)
    parts = jax.ShapeDtypeStruct((_tasks(rows, channels), 2, channels), x.dtype)
    call = partial(_call("layer_norm_gradients", (_like(x), parts)), epsilon=np.float32(epsilon))
    return call(x, scale, cotangent)


def product(x: jax.Array, kernel: jax.Array, *, transposed: bool = False) -> jax.Array:
    """Returns `x` `[..., I]` times `kernel` `[I, O]`; if `transposed`, `x` `[..., O]` times the kernel's transpose."""
    depth, columns = kernel.shape[::-1] if transposed else kernel.shape
    shapes = (*x.shape[:-1], columns), (depth * -(-columns // COLUMNS_OF_TILES) * COLUMNS_OF_TILES,)
    return _with_scratch("product_of_transposed" if transposed else "product", *shapes)(x, kernel)


def transposed_product(x: jax.Array, y: jax.Array) -> jax.Array:
    """Returns the sum over rows of the outer products of `x` `[..., I]` and `y` `[..., O]`, `[I, O]`.

    This is the gradient of a linear layer's kernel if `x` is the layer's input and `y` the gradient of its output.
    """
    (rows, inputs), outputs = _rows_of(x), y.shape[-1]
    blocks = -(-inputs // ROWS_OF_SUM) * -(-outputs // COLUMNS_OF_SUM)
    parts = max(1, min(-(-TASKS_OF_PRODUCT // blocks), rows // DEPTH_OF_PRODUCT))
    shapes = (inputs, outputs), (parts, *((inputs, outputs) if parts > 1 else (0, 0)))
    return _with_scratch("transposed_product", *shapes)(x, y)


def _rows_of(x: jax.Array) -> tuple[int, int]:
    return math.prod(x.shape[:-1]), x.shape[-1]


def _tasks(rows: int, channels: int) -> int:
    """Returns the number of tasks into which rows.h divides the rows.

    It depends only on shapes, so results do not depend on the number of threads.
    """
    return -(-rows // (max(1, NUMBERS_OF_TASK // channels // 16) * 16))


def _like(x: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype)


def _with_scratch(name: str, result: tuple[int, ...], scratch: tuple[int, ...]) -> Callable[..., Any]:
    """Returns a function that calls a kernel, with a float32 result and scratch memory of the given shapes.

    The scratch memory is declared as integers, because `jax_debug_nans` checks all floats that an operation returns and
    would find old memory contents.
    """
    call = _call(name, (jax.ShapeDtypeStruct(result, jnp.float32), jax.ShapeDtypeStruct(scratch, jnp.int32)))
    return lambda *arrays: call(*arrays)[0]


def _call(
    name: str, results: jax.ShapeDtypeStruct | tuple[jax.ShapeDtypeStruct, ...], **options: Any
) -> Callable[..., Any]:
    return jax.ffi.ffi_call(f"{register()}_{name}", results, vmap_method="sequential", **options)


def _rows(kernels: Sequence[jax.Array]) -> jax.Array:
    """Stacks the taps of all kernels, `[sum of k * k, C]`."""
    return jnp.concatenate([kernel.reshape(-1, kernel.shape[-1]) for kernel in kernels])


def _attributes(kernels: Sequence[jax.Array], scale: float) -> dict[str, np.ndarray | np.float32]:
    return {"sizes": np.asarray([len(kernel) for kernel in kernels], np.int64), "scale": np.float32(scale)}
