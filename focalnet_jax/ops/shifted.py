"""A focal level for CPUs. The convolution is a sum of shifted copies, which is recomputed for the gradients."""

from __future__ import annotations

import jax

from focalnet_jax.ops.depthwise import depthwise_conv, depthwise_gradients
from focalnet_jax.ops.gelu import activate, times_slope
from focalnet_jax.ops.rules import with_rule


@with_rule
def focal_level(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Returns GELU(depthwise convolution) of a level (paper equation 5).

    Only the arguments are kept for the gradient: on CPUs, computing the convolution again takes less time than writing
    and reading GELU's input.

    Args:
      x: previous level, `[B, H, W, C]`.
      kernel: kernel `[k, k, 1, C]`, k odd.

    Returns:
      `[B, H, W, C]` in the dtype of `x`.
    """
    return activate.fun(depthwise_conv.fun(x, kernel))


def _backward(kept: tuple[jax.Array, jax.Array], cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    return depthwise_gradients(*kept, times_slope(depthwise_conv.fun(*kept), cotangent))


focal_level.defvjp(lambda x, kernel: (focal_level.fun(x, kernel), (x, kernel)), _backward)
