"""Exact GELU, z Φ(z), with few operations; Φ is the standard normal distribution function and φ its density."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from focalnet_jax.ops.rules import with_rule

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
# Φ(z) = (1 + tanh(z (c0 + c1 z^2 + ...))) / 2: a fit of the same kind, to 1.5e-6 with four powers. The argument of tanh
# grows with z, so that it needs no bounds.
_TANH_COEFFICIENTS = (7.97869713e-01, 3.63922849e-02, -8.78256507e-05, -3.66936397e-05, 1.42501795e-06)
# Φ(z) = 1/2 + z (n0 + n1 z^2 + ...) / (d0 + d1 z^2 + ...) to 2e-8 for |z| <= 5.5, beyond which it is 0 or 1 to float32:
# a least-squares fit too, reweighted until the largest error was as small as these powers allow.
LARGEST = 5.5
NUMERATOR = (
    0.3989421545957111,
    0.03592238488886576,
    0.004509175071769959,
    0.00017037554402862047,
    3.241078098669033e-06,
    -2.2082338976115134e-08,
    1.1175720559515599e-10,
)
DENOMINATOR = (1.0, 0.256708636696253, 0.02909159332055822, 0.0018306530231000497, 6.232702775362065e-05)


def gelu(z: jax.Array) -> jax.Array:
    """Returns z Φ(z) for float32 `z`, from one exponential and one division.

    The error is at most 2.5e-7 |z|; with `jax.lax.erf` it is 1.2e-7 |z|.
    """
    return z * _normal(z)[0]


def gelu_slope(z: jax.Array) -> jax.Array:
    """Returns the derivative of `gelu`, Φ(z) + z φ(z)."""
    return gelu_and_slope(z)[1]


def gelu_and_slope(z: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns `gelu` and its derivative."""
    below, bell = _normal(z)
    return z * below, below + z * bell * (1 / math.sqrt(2 * math.pi))


@with_rule
def activate(x: jax.Array) -> jax.Array:
    """Returns exact GELU of `x`, computed by `quick_gelu` if `x` is bfloat16. Only `x` is kept for the gradient."""
    if x.dtype == jnp.bfloat16:
        return quick_gelu(x.astype(jnp.float32)).astype(x.dtype)
    above, below = _normal_as_quotient(x)
    return x * above / below


@jax.custom_jvp
def times_slope(x: jax.Array, cotangent: jax.Array) -> jax.Array:
    """Returns the gradient of `activate` at `x`, from the `cotangent` of its result."""
    if x.dtype == jnp.bfloat16:
        return (cotangent.astype(jnp.float32) * quick_gelu_and_slope(x.astype(jnp.float32))[1]).astype(x.dtype)
    above, below = _normal_as_quotient(x)
    bell = jnp.exp(-0.5 * x * x) * (1 / math.sqrt(2 * math.pi))
    return cotangent * (above + below * x * bell) / below


@times_slope.defjvp
def _second_derivative(
    primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """Returns `times_slope` and its tangent, computed from GELU's second derivative, (2 - x^2) φ(x).

    Autodiff would keep all powers of x.
    """
    x, cotangent = primals
    wide, factor = (each.astype(jnp.promote_types(each.dtype, jnp.float32)) for each in primals)
    bell = jnp.exp(-0.5 * wide * wide) * (1 / math.sqrt(2 * math.pi))
    second = (factor * (2 - wide * wide) * bell).astype(x.dtype)
    return times_slope(x, cotangent), times_slope(x, tangents[1]) + second * tangents[0]


# `activate.fun` instead of `activate`, which does not support forward mode: gradients are differentiated in both modes.
activate.defvjp(lambda x: (activate.fun(x), x), lambda x, cotangent: (times_slope(x, cotangent),))


def _normal_as_quotient(z: jax.Array) -> tuple[jax.Array, jax.Array | float]:
    """Returns the numerator and the denominator of Φ(z).

    In float32, GELU computed from them has errors up to 3e-7 |z|. The caller divides last: XLA for CPUs would repeat
    any other last operation, and all operations before it, for each use of the result.
    """
    if z.dtype != jnp.float32:
        return 0.5 * jax.lax.erfc(-z * math.sqrt(0.5)), 1.0
    t = jnp.clip(z, -LARGEST, LARGEST)
    below = _polynomial(t * t, DENOMINATOR)
    return 0.5 * below + t * _polynomial(t * t, NUMERATOR), below


def quick_gelu(z: jax.Array) -> jax.Array:
    """Returns z Φ(z) for float32 `z`. Errors of up to 1.7e-6 |z| suffice for results that are rounded to bfloat16."""
    return z * _quick_normal(z)


def quick_gelu_and_slope(z: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns `quick_gelu` of float32 `z`, and the derivative of GELU at `z` with errors up to 1.7e-6."""
    below = _quick_normal(z)
    return z * below, below + z * jnp.exp(-0.5 * z * z) * (1 / math.sqrt(2 * math.pi))


def _quick_normal(z: jax.Array) -> jax.Array:
    return 0.5 * jnp.tanh(z * _polynomial(z * z, _TANH_COEFFICIENTS)) + 0.5


def _normal(z: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns Φ(z) and exp(-z^2 / 2)."""
    bell = jnp.exp(-0.5 * z * z)
    t = 1 / (1 + (_SCALE / math.sqrt(2)) * jnp.abs(z))
    tail = _polynomial(t, [0.5 * c for c in _COEFFICIENTS]) * t * bell
    return jnp.where(z < 0, tail, 1 - tail), bell


def _polynomial(x: jax.Array, coefficients: Sequence[float]) -> jax.Array:
    """Returns the polynomial with these coefficients at `x`; the first coefficient is the constant."""
    *others, total = coefficients
    for coefficient in reversed(others):
        total = total * x + coefficient
    return total
