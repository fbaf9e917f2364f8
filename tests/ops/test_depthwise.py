"""Both implementations of the depthwise convolution compute the same, and each platform uses the right one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from focalnet_jax.ops.aggregation import aggregate_context
from focalnet_jax.ops.depthwise import depthwise_conv, depthwise_conv_reference, depthwise_conv_shifted

SHAPES = [((2, 9, 12, 5), 3), ((1, 4, 3, 8), 7), ((3, 1, 6, 2), 5), ((2, 14, 14, 16), 9), ((1, 2, 2, 3), 1)]


def operands(shape, k, dtype=jnp.float32):
    rng = np.random.default_rng(0)
    x, kernel, cotangent = rng.normal(size=shape), rng.normal(size=(k, k, 1, shape[3])), rng.normal(size=shape)
    return jnp.asarray(x, dtype), jnp.asarray(kernel, dtype), jnp.asarray(cotangent, dtype)


@pytest.mark.parametrize(("shape", "k"), SHAPES)
def test_forms_agree_in_value_and_gradients(shape, k):
    x, kernel, cotangent = operands(shape, k)
    expected, pullback = jax.vjp(depthwise_conv_reference, x, kernel)
    ours, our_pullback = jax.vjp(depthwise_conv, x, kernel)
    # sums of at most k * k (for the kernel B * H * W) float32 products, in a different order
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(ours, depthwise_conv_shifted(x, kernel))
    for gradient, wanted in zip(our_pullback(cotangent), pullback(cotangent), strict=True):
        assert gradient.dtype == wanted.dtype
        np.testing.assert_allclose(gradient, wanted, rtol=1e-5, atol=3e-5)


def test_bfloat16_is_as_near_to_the_truth_as_the_reference():
    x, kernel, _ = operands((2, 9, 12, 5), 7, jnp.bfloat16)
    truth = depthwise_conv_reference(x.astype(jnp.float32), kernel.astype(jnp.float32))
    ours, theirs = (f(x, kernel) for f in (depthwise_conv, depthwise_conv_reference))
    assert ours.dtype == jnp.bfloat16
    assert np.abs(ours - truth).max() <= np.abs(theirs - truth).max()


def test_gradient_of_a_gradient_exists():
    x, kernel, _ = operands((1, 4, 4, 2), 3)

    def penalty(conv, x):
        return jnp.sum(jax.grad(lambda x: jnp.sum(conv(x, kernel) ** 2))(x) ** 2)

    ours, theirs = (jax.grad(lambda x, f=f: penalty(f, x))(x) for f in (depthwise_conv, depthwise_conv_reference))
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("platform", "convolutions"), [("cpu", 0), ("tpu", 1), ("cuda", 1)])
def test_the_implementation_is_chosen_by_the_platform_lowered_for(platform, convolutions):
    x, kernel, _ = operands((2, 9, 12, 5), 3)
    program = export.export(jax.jit(depthwise_conv), platforms=[platform])(x, kernel).mlir_module()
    assert program.count("stablehlo.convolution") == convolutions


def test_constant_context_aggregates_to_the_gates():
    """With identity kernels and a constant map, every level is gelu(gelu(...)), weighted by its gate."""
    context = jnp.full((1, 3, 3, 2), 2.0)
    gates = jnp.broadcast_to(jnp.array([1.0, 10.0, 100.0]), (1, 3, 3, 3))
    identity = jnp.ones((1, 1, 1, 2))
    one = jax.nn.gelu(jnp.float32(2.0), approximate=False)
    two, three = (jax.nn.gelu(v, approximate=False) for v in (one, jax.nn.gelu(one, approximate=False)))
    expected = one + 10 * two + 100 * three
    np.testing.assert_allclose(aggregate_context(context, gates, [identity] * 2), expected, rtol=1e-6)
    np.testing.assert_allclose(
        aggregate_context(context, gates, [identity] * 2, normalize=True), expected / 3, rtol=1e-6
    )
