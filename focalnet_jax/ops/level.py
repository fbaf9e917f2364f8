"""A focal level: what XLA makes of its convolution and GELU, and what of their gradients."""

from __future__ import annotations

import jax
from jax import lax

from focalnet_jax.ops.depthwise import (
    depthwise_conv,
    depthwise_conv_reference,
    depthwise_conv_shifted,
    kernel_gradient_shifted,
)
from focalnet_jax.ops.gelu import activate, times_slope


@jax.custom_vjp
def focal_level(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """GELU(depthwise convolution) (paper equation 5).

    For the gradient a CPU convolves again, which is faster there than to write and read what GELU was applied to.

    Args:
      x: the level below, `[B, H, W, C]`.
      kernel: `[k, k, 1, C]`, k odd.

    Returns:
      `[B, H, W, C]` in the dtype of `x`.
    """
    return activate(depthwise_conv(x, kernel))


def _forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array, jax.Array]]:
    convolved = depthwise_conv(x, kernel)
    return activate(convolved), (x, kernel, convolved)


def _backward(saved: tuple[jax.Array, jax.Array, jax.Array], cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    return lax.platform_dependent(*saved, cotangent, cpu=_on_cpu, default=_elsewhere)


def _on_cpu(
    x: jax.Array, kernel: jax.Array, convolved: jax.Array, cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    del convolved
    gradient = times_slope(depthwise_conv_shifted(x, kernel), cotangent)
    kernel_gradient = kernel_gradient_shifted(x, gradient, kernel.shape[0]).astype(kernel.dtype)
    return depthwise_conv_shifted(gradient, kernel[::-1, ::-1]), kernel_gradient


def _elsewhere(
    x: jax.Array, kernel: jax.Array, convolved: jax.Array, cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    return jax.vjp(depthwise_conv_reference, x, kernel)[1](times_slope(convolved, cotangent))


focal_level.defvjp(_forward, _backward)
