"""A focal level for CPUs: shifted and added copies, and for the gradients the same again."""

from __future__ import annotations

import jax

from focalnet_jax.ops.depthwise import depthwise_conv_shifted, kernel_gradient_shifted
from focalnet_jax.ops.gelu import activated, times_slope


@jax.custom_vjp
def focal_level(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """GELU(depthwise convolution) (paper equation 5), which keeps nothing but what it is given.

    A CPU is sooner through the convolution once more than through writing and reading what GELU was applied to.

    Args:
      x: the level below, `[B, H, W, C]`.
      kernel: `[k, k, 1, C]`, k odd.

    Returns:
      `[B, H, W, C]` in the dtype of `x`.
    """
    return _level(x, kernel)


def _level(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return activated(depthwise_conv_shifted(x, kernel))


def _backward(kept: tuple[jax.Array, jax.Array], cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = kept
    gradient = times_slope(depthwise_conv_shifted(x, kernel), cotangent)
    kernel_gradient = kernel_gradient_shifted(x, gradient, kernel.shape[0]).astype(kernel.dtype)
    return depthwise_conv_shifted(gradient, kernel[::-1, ::-1]), kernel_gradient


focal_level.defvjp(lambda x, kernel: (_level(x, kernel), (x, kernel)), _backward)
