"""LayerNorm that keeps its input and at most two numbers per position for the gradient.

In bfloat16 on TPUs, the matrix unit sums over channels.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from focalnet_jax.distributed.activations import allows_kernels, on_each_device
from focalnet_jax.ops import native
from focalnet_jax.ops.rules import with_rule

EPSILON = 1e-5  # PyTorch's default; Flax's is 1e-6


def layer_norm(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float = EPSILON, implementation: str = "xla"
) -> jax.Array:
    """Returns LayerNorm (arXiv 1607.06450) over C, computed in float32.

    For bfloat16 on TPUs, the addends of means are rounded to bfloat16.

    Args:
      x: input `[..., C]`.
      scale: scale `[C]`.
      bias: bias `[C]`.
      epsilon: number added to the variance.
      implementation: "native" for C++, which supports float32 maps on CPUs. XLA computes everything else.

    Returns:
      `[..., C]` in the dtype of `x`.
    """
    scale, bias = scale.astype(jnp.float32), bias.astype(jnp.float32)
    native_here = implementation == "native" and x.ndim > 1 and x.size > 0 and native.computes(x.dtype)
    if native_here and allows_kernels(x):
        return _normalize_natively(x, scale, bias, epsilon)
    return layer_norm_in_xla(x, scale, bias, epsilon)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _normalize_natively(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> jax.Array:
    norm = partial(native.layer_norm, epsilon=epsilon)
    return on_each_device(norm, ("examples", "whole", "whole"), "examples")(x, scale, bias)


def _native_gradients(
    epsilon: float, kept: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    gradients = partial(native.layer_norm_gradients, epsilon=epsilon)
    given = ("examples", "whole", "examples")
    to_x, parts = on_each_device(gradients, given, ("examples", "sums"))(*kept, cotangent)
    to_scale, to_bias = parts.sum(axis=0)
    return to_x, to_scale, to_bias


_normalize_natively.defvjp(
    lambda x, scale, bias, epsilon: (_normalize_natively(x, scale, bias, epsilon), (x, scale)), _native_gradients
)


@partial(with_rule, nondiff_argnums=(3,))
def layer_norm_in_xla(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> jax.Array:
    """Returns the same as `layer_norm`, computed by XLA.

    Autodiff would keep float32 arrays of the size of `x`; this function keeps `x` and two numbers per position.

    Args:
      x: input `[..., C]`.
      scale: scale `[C]` float32.
      bias: bias `[C]` float32.
      epsilon: number added to the variance.
    """
    return _forward(x, scale, bias, epsilon)[0]


def _forward(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> tuple[jax.Array, tuple[jax.Array, jax.Array, jax.Array, jax.Array]]:
    wide = x.astype(jnp.float32)
    mean_of = _mean_of(x.dtype)
    mean = mean_of(wide)
    centred = wide - mean
    inverse = jax.lax.rsqrt(mean_of(centred * centred) + epsilon)
    return (centred * inverse * scale + bias).astype(x.dtype), (x, mean, inverse, scale)


def _backward(
    epsilon: float, kept: tuple[jax.Array, jax.Array, jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    del epsilon
    x, mean, inverse, scale = kept
    mean_of = _mean_of(x.dtype)
    wide = cotangent.astype(jnp.float32)
    normal = (x.astype(jnp.float32) - mean) * inverse
    scaled = wide * scale
    gradient = (scaled - mean_of(scaled) - normal * mean_of(scaled * normal)) * inverse
    axes = tuple(range(x.ndim - 1))
    return gradient.astype(x.dtype), (wide * normal).sum(axes), wide.sum(axes)


layer_norm_in_xla.defvjp(_forward, _backward)


def _mean_of(dtype: jnp.dtype) -> Callable[[jax.Array], jax.Array]:
    """Returns a function from `[..., C]` float32 to means over C, `[..., 1]`, that are as precise as `dtype` needs."""
    return _mean_half if dtype == jnp.bfloat16 else partial(jnp.mean, axis=-1, keepdims=True)


def _mean_half(x: jax.Array) -> jax.Array:
    return jax.lax.platform_dependent(x, tpu=mean_by_product, default=partial(jnp.mean, axis=-1, keepdims=True))


def mean_by_product(x: jax.Array) -> jax.Array:
    """Returns the mean over C, `[..., 1]`, computed by a TPU's matrix unit: its vector unit is slow at adding up lanes.

    The addends are rounded to bfloat16 and added in float32.
    """
    ones = jnp.ones((x.shape[-1], 8), jnp.bfloat16)  # XLA would compute a single column in the vector unit
    return jnp.matmul(x.astype(jnp.bfloat16), ones, preferred_element_type=jnp.float32)[..., :1] / x.shape[-1]
