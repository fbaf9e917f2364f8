"""Bilinear resizing and adaptive average pooling of maps, equal to PyTorch's."""

from __future__ import annotations

import math
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np


def bilinear(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Resizes maps like `torch.nn.functional.interpolate` with `mode="bilinear"` and `align_corners=False`.

    Args:
      x: maps `[B, h, w, C]`.
      size: height H and width W of the result, larger or smaller.

    Returns:
      Maps `[B, H, W, C]` in the dtype of `x`.
    """
    if x.shape[1:3] == tuple(size):
        return x
    return jax.lax.platform_dependent(x, tpu=partial(by_axis, size=size), default=partial(_resized, size=size))


def _resized(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    # By default, JAX averages over larger windows where maps become smaller; PyTorch does not.
    return jax.image.resize(x, (x.shape[0], *size, x.shape[3]), "linear", antialias=False)


def by_axis(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Returns the same as `bilinear`, for TPUs: one product with a matrix per axis.

    `jax.image.resize` multiplies by the matrices of both axes, and the compiler for TPUs takes minutes to fuse the
    second of these products with the layers around it.
    """
    for axis, length in ((2, size[1]), (1, size[0])):
        if x.shape[axis] != length:
            x = _interpolated(x, axis, length)
    return x


def _interpolated(x: jax.Array, axis: int, length: int) -> jax.Array:
    """Interpolates maps linearly along `axis`, to `length` values.

    The array in the product has three axes, and barriers keep the operations of other layers out of the product and its
    gradient, see `by_axis`.
    """
    before, after = x.shape[:axis], x.shape[axis + 1 :]
    rows = jax.lax.optimization_barrier(x.reshape(math.prod(before), x.shape[axis], math.prod(after)))
    matrix = _neighbours(x.shape[axis], length).astype(x.dtype)
    product = jnp.einsum("anb,mn->amb", rows, matrix, precision=jax.lax.Precision.HIGHEST)
    return jax.lax.optimization_barrier(product).reshape(*before, length, *after)


@cache
def _neighbours(length: int, new: int) -> np.ndarray:
    """Returns the matrix `[new, length]` that resizes an axis from `length` to `new` cells by linear interpolation."""
    place = np.clip((np.arange(new) + 0.5) * length / new - 0.5, 0, length - 1)
    distance = np.abs(place[:, None] - np.arange(length))
    return np.maximum(1 - distance, 0).astype(np.float32)


def adaptive_mean(x: jax.Array, size: int) -> jax.Array:
    """Averages maps over `size` x `size` windows like `torch.nn.AdaptiveAvgPool2d`, in float32.

    Windows overlap if `size` does not divide the height or the width.

    Args:
      x: maps `[B, H, W, C]`.
      size: number of windows along the height and along the width.

    Returns:
      Means `[B, size, size, C]` float32.
    """
    rows, columns = (_means(length, size) for length in x.shape[1:3])
    means = jnp.einsum("bhwc,ih->biwc", x.astype(jnp.float32), rows, precision=jax.lax.Precision.HIGHEST)
    return jnp.einsum("biwc,jw->bijc", means, columns, precision=jax.lax.Precision.HIGHEST)


def _means(length: int, windows: int) -> np.ndarray:
    """Returns the matrix `[windows, length]` that averages over windows.

    Window i covers the positions p with floor(i * length / windows) <= p < ceil((i + 1) * length / windows).
    """
    index, place = np.arange(windows)[:, None], np.arange(length)
    inside = (place >= index * length // windows) & (place < -(-(index + 1) * length // windows))
    return (inside / inside.sum(axis=1, keepdims=True)).astype(np.float32)
