"""Exact GELU for kernels of our own: z Φ(z), with Φ the normal distribution, from one exponential and one division."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

# erfc(x) = exp(-x^2) t (c0 + c1 t + ...) with t = 1 / (1 + 0.32 x): a least-squares fit, reweighted until the largest
# relative error over 0 <= x <= 5 was as small as seven powers allow: 1.5e-8, a quarter of float32's rounding.
_SCALE = 0.32
_COEFFICIENTS = (
    0.18156188302297666,
    0.16596136019869856,
    0.26110216689328036,
    -0.15800618853478926,
    0.7832878269961653,
    -0.7590277046555717,
    0.7018228039690406,
    -0.17670216274216408,
)
# Φ(z) = (1 + tanh(z (c0 + c1 z^2 + ...))) / 2: a fit of the same kind, to 1.5e-6 with four powers. What tanh is given
# grows with z, so that it needs no bounds.
_TANH_COEFFICIENTS = (7.97869713e-01, 3.63922849e-02, -8.78256507e-05, -3.66936397e-05, 1.42501795e-06)


def gelu(z: jax.Array) -> jax.Array:
    """The product z Φ(z) of float32 numbers, to 2.5e-7 |z|: roundings of Φ, 1.2e-7 of which erf's own form has."""
    return z * _normal(z)[0]


def gelu_slope(z: jax.Array) -> jax.Array:
    """The derivative of `gelu`: Φ(z) + z φ(z)."""
    return gelu_and_slope(z)[1]


def gelu_and_slope(z: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`gelu` and its derivative."""
    below, bell = _normal(z)
    return z * below, below + z * bell * (1 / math.sqrt(2 * math.pi))


def activate(x: jax.Array) -> jax.Array:
    """Exact GELU of an array of any dtype; of bfloat16 it takes the quick form and keeps `x` alone for the gradient."""
    return _activate_half(x) if x.dtype == jnp.bfloat16 else jax.nn.gelu(x, approximate=False)


@jax.custom_vjp
def _activate_half(x: jax.Array) -> jax.Array:
    return quick_gelu(x.astype(jnp.float32)).astype(x.dtype)


def _half_backward(x: jax.Array, cotangent: jax.Array) -> tuple[jax.Array]:
    slope = quick_gelu_and_slope(x.astype(jnp.float32))[1]
    return ((cotangent.astype(jnp.float32) * slope).astype(x.dtype),)


_activate_half.defvjp(lambda x: (_activate_half(x), x), _half_backward)


def quick_gelu(z: jax.Array) -> jax.Array:
    """The product z Φ(z) for what is rounded to bfloat16 afterwards: to 1.5e-6 |z|."""
    return z * _quick_normal(z)


def quick_gelu_and_slope(z: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`quick_gelu` and z Φ(z)'s derivative, to 1.5e-6."""
    below = _quick_normal(z)
    return z * below, below + z * jnp.exp(-0.5 * z * z) * (1 / math.sqrt(2 * math.pi))


def _quick_normal(z: jax.Array) -> jax.Array:
    square, total = z * z, _TANH_COEFFICIENTS[-1]
    for coefficient in reversed(_TANH_COEFFICIENTS[:-1]):
        total = total * square + coefficient
    return 0.5 * jnp.tanh(z * total) + 0.5


def _normal(z: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Φ(z) and exp(-z^2 / 2)."""
    bell = jnp.exp(-0.5 * z * z)
    t = 1 / (1 + (_SCALE / math.sqrt(2)) * jnp.abs(z))
    *others, last = (0.5 * c for c in _COEFFICIENTS)
    total = jnp.full_like(t, last)
    for coefficient in reversed(others):
        total = total * t + coefficient
    tail = total * t * bell
    return jnp.where(z < 0, tail, 1 - tail), bell
