"""A focal level for CPUs: shifted and added copies, and for the gradients the same again."""

from __future__ import annotations

import jax

from focalnet_jax.ops.depthwise import depthwise_conv, depthwise_gradients
from focalnet_jax.ops.gelu import activate, times_slope
from focalnet_jax.ops.rules import with_rule


@with_rule
def focal_level(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """GELU(depthwise convolution) (paper equation 5), which keeps nothing but what it is given.

    A CPU is sooner through the convolution once more than through writing and reading what GELU was applied to.

    Args:
      x: the level below, `[B, H, W, C]`.
      kernel: `[k, k, 1, C]`, k odd.

    Returns:
      `[B, H, W, C]` in the dtype of `x`.
    """
    return activate.fun(depthwise_conv.fun(x, kernel))


def _backward(kept: tuple[jax.Array, jax.Array], cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    return depthwise_gradients(*kept, times_slope(depthwise_conv.fun(*kept), cotangent))


focal_level.defvjp(lambda x, kernel: (focal_level.fun(x, kernel), (x, kernel)), _backward)
