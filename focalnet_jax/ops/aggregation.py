"""Gated aggregation of the context over all focal levels (paper section 3.2, equations 5 and 6)."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from focalnet_jax.ops.depthwise import depthwise_conv


def aggregate_context(
    context: jax.Array, gates: jax.Array, kernels: Sequence[jax.Array], *, normalize: bool = False
) -> jax.Array:
    """Sum of the focal levels' contexts, each times its gate.

    Level l is GELU(depthwise convolution) of level l - 1; the global level is GELU of the last level's mean
    over H and W. GELU is the exact (erf) form, gates have no activation.

    Args:
      context: `[B, H, W, C]`, level 0's input.
      gates: `[B, H, W, L + 1]`, the last one is the global level's.
      kernels: L depthwise kernels, `[k_l, k_l, 1, C]`.
      normalize: divide the sum by L + 1.

    Returns:
      `[B, H, W, C]` in the dtype of `context`.
    """
    total = jnp.zeros_like(context)
    for level, kernel in enumerate(kernels):
        context = jax.nn.gelu(depthwise_conv(context, kernel), approximate=False)
        total += context * gates[..., level, None]
    mean = jnp.mean(context, axis=(1, 2), keepdims=True, dtype=jnp.float32).astype(context.dtype)  # [B, 1, 1, C]
    total += jax.nn.gelu(mean, approximate=False) * gates[..., -1, None]
    return total / (len(kernels) + 1) if normalize else total
