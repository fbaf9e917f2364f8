"""The product for CPUs and its gradients are a product's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from focalnet_jax.ops.product import product


@pytest.mark.parametrize("shape", [(3, 5, 7), (105,)])
@pytest.mark.parametrize(("inputs", "outputs"), [(24, 40), (40, 24)])
def test_product_and_gradients_are_the_exact_ones_to_rounding(shape, inputs, outputs):
    rng = np.random.default_rng(0)
    x, kernel, cotangent = (rng.normal(size=s) for s in ((*shape, inputs), (inputs, outputs), (*shape, outputs)))
    ours, back = jax.vjp(
        lambda x, kernel: product(x, kernel, (((len(shape),), (0,)), ((), ())), precision="highest"),
        jnp.float32(x),
        jnp.float32(kernel),
    )
    to_x, to_kernel = back(jnp.float32(cotangent))
    rounding = 1e-5  # of sums of up to 105 products of about 1
    np.testing.assert_allclose(ours, x @ kernel, atol=rounding)
    np.testing.assert_allclose(to_x, cotangent @ kernel.T, atol=rounding)
    exact = x.reshape(-1, inputs).T @ cotangent.reshape(-1, outputs)
    np.testing.assert_allclose(to_kernel, exact, atol=2 * rounding)
