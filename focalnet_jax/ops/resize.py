"""Bilinear resizing and adaptive average pooling of maps, equal to PyTorch's."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np


def bilinear(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Resizes maps like `torch.nn.functional.interpolate` with `mode="bilinear"` and `align_corners=False`.

    Args:
      x: maps `[B, h, w, C]`.
      size: height H and width W of the result, larger or smaller.

    Returns:
      Maps `[B, H, W, C]`.
    """
    # By default, JAX averages over larger windows where maps become smaller; PyTorch does not.
    return jax.image.resize(x, (x.shape[0], *size, x.shape[3]), "linear", antialias=False)


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
    """Returns the matrix `[windows, length]` that averages over windows from floor(i n / s) to ceil((i + 1) n / s)."""
    index, place = np.arange(windows)[:, None], np.arange(length)
    inside = (place >= index * length // windows) & (place < -(-(index + 1) * length // windows))
    return (inside / inside.sum(axis=1, keepdims=True)).astype(np.float32)
