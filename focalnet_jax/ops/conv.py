"""Convolutions that keep the size of maps. On CPUs, C++ computes large 3x3 convolutions and kernels' gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from focalnet_jax.distributed.activations import allows_kernels, on_each_device, splits_channels
from focalnet_jax.ops import native, winograd
from focalnet_jax.ops.compute import Compute
from focalnet_jax.ops.product import kernel_gradient

_LEAST_MACS = 2**30  # of a convolution by Winograd's algorithm: for smaller ones, compiling costs more than it saves


def choose_conv(compute: Compute) -> Callable[..., jax.Array]:
    """Returns the function for the argument `conv_general_dilated` of an `nnx.Conv` that keeps the size of maps."""
    return same_conv if compute.in_cpp else jax.lax.conv_general_dilated


def same_conv(
    x: jax.Array,
    kernel: jax.Array,
    strides: tuple[int, int],
    padding: str,
    *,
    precision: jax.lax.PrecisionLike = None,
    **options: Any,
) -> jax.Array:
    """Returns the convolution `[B, H, W, O]` of `x` `[B, H, W, I]` with `kernel` `[k, k, I, O]`, k odd.

    It replaces `jax.lax.conv_general_dilated` in `nnx.Conv` with strides of 1 and padding "SAME". Large float32
    convolutions with 3x3 kernels, and their gradients, are computed by `winograd`. The gradient of any other kernel is
    one matrix product per position of the kernel, computed in C++ for float32, because XLA's convolution is slow there.
    XLA computes everything else.
    """
    assert (strides, padding) == ((1, 1), "SAME")  # as `ConvBlock` calls it
    if not allows_kernels(x, kernel):  # JAX's rules split gradients over any mesh
        return jax.lax.conv_general_dilated(x, kernel, strides, padding, precision=precision, **options)
    return _conv(x, kernel, precision)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv(x: jax.Array, kernel: jax.Array, precision: jax.lax.PrecisionLike) -> jax.Array:
    if _by_winograd(x, kernel):
        return on_each_device(winograd.convolve, ("examples", "whole"), "examples")(x, kernel)
    order = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=order, precision=precision)


def _gradients(
    precision: jax.lax.PrecisionLike, kept: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns the gradients of `kept`, the input `[B, H, W, I]` and the kernel `[k, k, I, O]`."""
    x, kernel = kept
    to_x = _conv(cotangent, kernel[::-1, ::-1].swapaxes(2, 3), precision)
    if _by_winograd(x, kernel):
        sums = on_each_device(lambda *maps: winograd.kernel_gradient(*maps)[None], ("examples", "examples"), "sums")
        return to_x, sums(x, cotangent).sum(axis=0)
    (height, width), size = x.shape[1:3], len(kernel)
    padded = jnp.pad(x, ((0, 0), (size // 2, size // 2), (size // 2, size // 2), (0, 0)))
    taps = [
        kernel_gradient(padded[:, row : row + height, column : column + width], cotangent, precision)
        for row in range(size)
        for column in range(size)
    ]
    return to_x, jnp.stack(taps).reshape(kernel.shape)


def _by_winograd(x: jax.Array, kernel: jax.Array) -> bool:
    float32 = x.dtype == kernel.dtype == jnp.float32 and native.computes(x.dtype)
    large = kernel.size * math.prod(x.shape[:3]) >= _LEAST_MACS
    return large and kernel.shape[:2] == (3, 3) and float32 and 0 not in (x.size, kernel.size) and not splits_channels()


_conv.defvjp(lambda x, kernel, precision: (_conv(x, kernel, precision), (x, kernel)), _gradients)
