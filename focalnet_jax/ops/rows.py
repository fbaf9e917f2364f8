"""Layers for use inside kernels, on rows `[R, C]` float32. Products are computed in the dtype of the weights."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from focalnet_jax.ops.gelu import gelu, gelu_and_slope, quick_gelu, quick_gelu_and_slope


def linear(layer: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    """Returns the output of a linear layer with an optional bias, `[R, D]` float32, for rows `[R, C]` float32."""
    y = _product(x, layer["kernel"])
    return y + layer["bias"] if "bias" in layer else y


def layer_norm(layer: dict[str, jax.Array], x: jax.Array, epsilon: float) -> jax.Array:
    """Returns LayerNorm over C of rows `[R, C]` float32."""
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean(centred * centred, axis=-1, keepdims=True)
    return centred * lax.rsqrt(variance + epsilon) * layer["scale"] + layer["bias"]


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def activate(x: jax.Array, dtype: Any) -> jax.Array:
    """Returns exact GELU of float32 `x`, as precise as results in `dtype` need."""
    return quick_gelu(x) if dtype == jnp.bfloat16 else gelu(x)


def _slope(dtype: Any, x: jax.Array, cotangent: jax.Array) -> tuple[jax.Array]:
    both = quick_gelu_and_slope if dtype == jnp.bfloat16 else gelu_and_slope
    return (cotangent * both(x)[1],)


activate.defvjp(lambda x, dtype: (activate(x, dtype), x), _slope)


@jax.custom_vjp
def _product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Returns the matrix product of `[R, C]` and `[C, D]`, `[R, D]` float32.

    The factors are rounded to the dtype of `kernel`, and their products are added in float32, also for the gradients.
    """
    return _dot(x.astype(kernel.dtype), kernel, 1, 0)


def _product_back(kept: tuple[jax.Array, jax.Array], cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = kept
    cotangent = cotangent.astype(kernel.dtype)
    return _dot(cotangent, kernel, 1, 1), _dot(x, cotangent, 0, 0)


_product.defvjp(
    lambda x, kernel: (_product(x, kernel), (x.astype(kernel.dtype), kernel)),
    _product_back,
)


def _dot(x: jax.Array, y: jax.Array, over: int, and_over: int) -> jax.Array:
    exact = lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
    dimensions = (((over,), (and_over,)), ((), ()))
    return lax.dot_general(x, y, dimensions, precision=exact, preferred_element_type=jnp.float32)
