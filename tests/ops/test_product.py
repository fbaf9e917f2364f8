"""The product for CPUs and its gradients are a product's."""

import jax
import jax.numpy as jnp
import numpy as np

from focalnet_jax.ops.product import product


def test_product_and_gradients_are_the_exact_ones_to_rounding():
    rng = np.random.default_rng(0)
    x, kernel, cotangent = (rng.normal(size=shape) for shape in ((3, 5, 7, 24), (24, 40), (3, 5, 7, 40)))
    ours, back = jax.vjp(
        lambda x, kernel: product(x, kernel, (((3,), (0,)), ((), ())), precision="highest"),
        jnp.float32(x),
        jnp.float32(kernel),
    )
    to_x, to_kernel = back(jnp.float32(cotangent))
    rounding = 1e-5  # of sums of up to 105 products of about 1
    np.testing.assert_allclose(ours, x @ kernel, atol=rounding)
    np.testing.assert_allclose(to_x, cotangent @ kernel.T, atol=rounding)
    np.testing.assert_allclose(to_kernel, np.einsum("bhwi,bhwo->io", x, cotangent), atol=2 * rounding)
