"""The implementations of GELU are as exact as documented."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from focalnet_jax.ops import native
from focalnet_jax.ops.gelu import activate, gelu, gelu_slope, quick_gelu, quick_gelu_and_slope

Z = np.linspace(-12, 12, 200_001).astype(np.float32)
BELOW = np.array([0.5 * math.erfc(-z / math.sqrt(2)) for z in Z.astype(np.float64)])
SLOPE = BELOW + Z * np.exp(-0.5 * Z.astype(np.float64) ** 2) / math.sqrt(2 * math.pi)


def test_gelu_and_its_slope_are_exact_to_float32s_rounding():
    assert (
        np.abs(gelu(jnp.asarray(Z)) - Z * BELOW) <= 2.5e-7 * np.abs(Z)
    ).all()  # the documented error: four roundings
    assert np.abs(gelu_slope(jnp.asarray(Z)) - SLOPE).max() < 3e-7  # of numbers up to 1.13


def test_quick_gelu_has_the_stated_error():
    # The error of the fit, 1.44e-6, and three float32 roundings of values up to 1, 6e-8 each.
    assert (np.abs(quick_gelu(jnp.asarray(Z)) - Z * BELOW) <= 1.7e-6 * np.abs(Z)).all()
    assert np.abs(quick_gelu_and_slope(jnp.asarray(Z))[1] - SLOPE).max() < 1.8e-6
    far = jnp.asarray([-1e30, -1e4, 1e4, 1e30], jnp.float32)
    np.testing.assert_array_equal(quick_gelu(far), np.float32([0, 0, 1e4, 1e30]))


def test_in_float32_a_models_gelu_and_its_gradient_are_as_exact_as_they_say():
    ours, back = jax.vjp(activate, jnp.asarray(Z))
    assert (np.abs(ours - Z * BELOW) <= 3e-7 * np.abs(Z)).all()  # five roundings
    assert np.abs(back(jnp.ones_like(ours))[0] - SLOPE).max() < 5e-7  # of numbers up to 1.13
    far = jnp.asarray([-1e30, 1e30, np.nan], jnp.float32)
    np.testing.assert_allclose(activate(far), [0, 1e30, np.nan], rtol=3e-7, atol=3e23)


def test_in_float64_a_models_gelu_is_exact():
    with jax.enable_x64(True):
        z = jnp.asarray(Z, jnp.float64)
        np.testing.assert_allclose(activate(z), Z * BELOW, rtol=1e-13, atol=1e-300)


def test_in_bfloat16_value_and_slope_are_the_exact_ones_rounded():
    x = jnp.asarray(np.linspace(-4, 4, 4001), jnp.bfloat16)
    exact, back = jax.vjp(lambda x: jax.nn.gelu(x, approximate=False), x.astype(jnp.float32))
    ours, ours_back = jax.vjp(activate, x)
    assert ours.dtype == jnp.bfloat16
    rounding = 2.0**-8  # of bfloat16; the distance to the nearest value is at most half of this
    np.testing.assert_allclose(np.float32(ours), exact, rtol=rounding, atol=1e-5)
    slope = np.float32(ours_back(jnp.ones_like(x))[0])
    np.testing.assert_allclose(slope, back(jnp.ones(x.shape, jnp.float32))[0], rtol=rounding, atol=1e-5)


def test_the_quotient_for_cpus_and_its_gradient_are_as_exact():
    x, bias = jnp.asarray(Z[None]), jnp.zeros(len(Z))
    assert (np.abs(native.gelu(x, bias)[0] - Z * BELOW) <= 3e-7 * np.abs(Z)).all()  # five roundings
    slope, _, again = native.gelu_gradients(x, bias, jnp.ones_like(x))
    assert np.abs(slope[0] - SLOPE).max() < 5e-7
    np.testing.assert_array_equal(again, native.gelu(x, bias))
    far = jnp.asarray([[-1e30, 1e30, np.nan]], jnp.float32)
    np.testing.assert_allclose(native.gelu(far, jnp.zeros(3))[0], [0, 1e30, np.nan], rtol=3e-7, atol=3e23)
