"""Patch embedding: a strided convolution and LayerNorm."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from focalnet_jax.distributed.activations import allows_kernels, by_example
from focalnet_jax.ops import fused
from focalnet_jax.ops.compute import Compute
from focalnet_jax.ops.pointwise import suits
from focalnet_jax.ops.product import product


def pad_to_multiple(x: jax.Array, size: int) -> jax.Array:
    """Pads `[B, H, W, C]` with zeros to the right and below, so that H and W become multiples of `size`."""
    bottom, right = (-length % size for length in x.shape[1:3])
    return jnp.pad(x, ((0, 0), (0, bottom), (0, right), (0, 0))) if bottom or right else x


def embed(proj: nnx.Conv, norm: Callable[[jax.Array], jax.Array], x: jax.Array, compute: Compute) -> jax.Array:
    """Returns `norm(proj(x))`, `[B, H', W', D]`, for `x` `[B, H, W, C]`."""
    if suits(compute.pointwise, compute.dtype) and allows_kernels(x):
        return by_example(fused.run_embedding(proj, norm, x))
    return norm(by_example(strided_conv(proj, x, compute)))


def strided_conv(proj: nnx.Conv, x: jax.Array, compute: Compute) -> jax.Array:
    """Returns `proj(x)`, `[B, H', W', D]`, for `x` `[B, H, W, C]`.

    If C++ computes the model's layers and the windows neither overlap nor have padding, the convolution and its
    gradients are computed as matrix products of patches.
    """
    k, strides = proj.kernel_size[0], tuple(proj.strides)
    apart = strides == (k, k) and not any(side for sides in proj.padding for side in sides)
    if not (compute.in_cpp and apart and allows_kernels(x, proj.kernel[...])):
        return proj(x)
    batch, height, width, channels = x.shape
    rows, columns = height // k, width // k
    x = x[:, : rows * k, : columns * k].astype(proj.dtype).reshape(batch, rows, k, columns, k, channels)
    patches = x.swapaxes(2, 3).reshape(batch, rows, columns, k * k * channels)  # [B, H / k, W / k, k * k * C]
    kernel = proj.kernel[...].astype(proj.dtype).reshape(patches.shape[-1], -1)
    y = product(patches, kernel, (((3,), (0,)), ((), ())), precision=proj.precision)
    return y + proj.bias[...].astype(proj.dtype)
