"""Depthwise convolution, the main operation of every focal level.

XLA's grouped convolution is the reference, and runs on TPUs and GPUs. On CPUs it is more than ten times slower than
adding shifted copies (`benchmarks/depthwise.py` measures both), so the CPU implementation adds them. The choice is made
when the program is lowered for a platform, so one traced program works on all platforms. Models use this
convolution only where no kernel of `ops/native`, `ops/triton` or `ops/mosaic` is used.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from focalnet_jax.ops.rules import with_rule

_POSITIONS = 56  # per step of the kernel's gradient, enough to outweigh reading and writing the accumulator


def depthwise_conv_reference(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Returns the depthwise convolution, computed by XLA's grouped convolution.

    The stride is 1, the zero padding is k // 2, and there is no bias.

    Args:
      x: input `[B, H, W, C]`.
      kernel: kernel `[k, k, 1, C]`, k odd.

    Returns:
      `[B, H, W, C]` in the dtype of `x`.
    """
    pad = kernel.shape[0] // 2
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(1, 1),
        padding=((pad, pad), (pad, pad)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
        precision=lax.Precision.HIGHEST if x.dtype == jnp.float32 else None,
    )


def depthwise_conv_shifted(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Returns the same as `depthwise_conv_reference`, computed as the sum of k * k shifted and scaled copies of `x`.

    The copies are added in float32.
    """
    k, height, width = kernel.shape[0], x.shape[1], x.shape[2]
    # Without the barrier XLA folds the padding's bounds checks into each of the k * k reads.
    padded = lax.optimization_barrier(_pad(x, k // 2))
    taps = kernel.astype(jnp.float32)
    total = sum(
        padded[:, i : i + height, j : j + width].astype(jnp.float32) * taps[i, j, 0] for i in range(k) for j in range(k)
    )
    return total.astype(x.dtype)


def kernel_gradient_shifted(x: jax.Array, cotangent: jax.Array, k: int) -> jax.Array:
    """Returns the kernel's gradient, `[k, k, 1, C]` float32, from `x` and the output's cotangent, both `[B, H, W, C]`.

    k * k separate reductions over B, H and W do not vectorise on CPUs. A loop over rows vectorises: each position adds
    its window times its cotangent to an accumulator `[B, k, k, C]`.
    """
    batch, height, width, channels = x.shape
    padded = _pad(x, k // 2)
    rows = _divisor(height, _POSITIONS // width)

    def add_rows(step: jax.Array, total: jax.Array) -> jax.Array:
        first = step * rows
        window = lax.dynamic_slice_in_dim(padded, first, rows + k - 1, axis=1).astype(jnp.float32)
        weight = lax.dynamic_slice_in_dim(cotangent, first, rows, axis=1).astype(jnp.float32)  # [B, rows, W, C]
        for row in range(rows):
            for column in range(width):
                total += window[:, row : row + k, column : column + k] * weight[:, row, column, None, None]
        return total

    start = jnp.zeros((batch, k, k, channels), jnp.float32)
    return lax.fori_loop(0, height // rows, add_rows, start).sum(axis=0)[:, :, None]


def _divisor(of: int, most: int) -> int:
    """Returns the largest divisor of `of` that is at most `most`, or 1."""
    return max(divisor for divisor in range(1, max(most, 1) + 1) if of % divisor == 0)


def _pad(x: jax.Array, size: int) -> jax.Array:
    return jnp.pad(x, ((0, 0), (size, size), (size, size), (0, 0)))


def _reference_gradients(x: jax.Array, kernel: jax.Array, cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jax.vjp(depthwise_conv_reference, x, kernel)[1](cotangent)


def _shifted_gradients(x: jax.Array, kernel: jax.Array, cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    x_gradient = depthwise_conv_shifted(cotangent, kernel[::-1, ::-1])
    return x_gradient, kernel_gradient_shifted(x, cotangent, kernel.shape[0]).astype(kernel.dtype)


@with_rule
def depthwise_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Returns the same as `depthwise_conv_reference`, computed by the fastest implementation.

    The implementation is chosen for the platform of the lowered program.
    """
    return lax.platform_dependent(x, kernel, cpu=depthwise_conv_shifted, default=depthwise_conv_reference)


def depthwise_gradients(x: jax.Array, kernel: jax.Array, cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the gradients of `x` and `kernel` from the gradient of the result of `depthwise_conv`."""
    # Differentiating through platform_dependent would keep the residuals of every platform's implementation.
    return lax.platform_dependent(x, kernel, cotangent, cpu=_shifted_gradients, default=_reference_gradients)


depthwise_conv.defvjp(
    lambda x, kernel: (depthwise_conv.fun(x, kernel), (x, kernel)),
    lambda saved, cotangent: depthwise_gradients(*saved, cotangent),
)
