"""A focal level of `shifted` is the GELU of the convolution, with the same gradients, and keeps only its inputs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from focalnet_jax.ops.depthwise import depthwise_conv_reference
from focalnet_jax.ops.shifted import focal_level


def plain(x, kernel):
    return jax.nn.gelu(depthwise_conv_reference(x, kernel), approximate=False)


@pytest.mark.parametrize(
    ("shape", "k"),
    [((6, 14, 14, 16), 7), ((4, 28, 28, 6), 3), ((7, 13, 11, 5), 5), ((3, 1, 60, 2), 3), ((2, 7, 7, 800), 9)],
)
def test_value_and_gradients_are_those_of_the_convolutions_gelu(shape, k):
    rng = np.random.default_rng(0)
    x, cotangent = (rng.normal(size=shape).astype(np.float32) for _ in range(2))
    kernel = rng.normal(0, 0.2, (k, k, 1, shape[-1])).astype(np.float32)
    (ours, back), (theirs, their_back) = jax.vjp(jax.jit(focal_level), x, kernel), jax.vjp(jax.jit(plain), x, kernel)
    # GELU within 3e-7, of sums of k * k products (B * H * W for the gradient of the kernel) in a different order
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=2e-6)
    for mine, true in zip(back(cotangent), their_back(cotangent), strict=True):
        assert np.linalg.norm(mine - true) <= 1e-6 * np.linalg.norm(true)


def test_bfloat16_is_as_near_to_the_truth_as_by_xla():
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (2, 9, 12, 5)).astype(jnp.bfloat16)
    kernel = (0.2 * jax.random.normal(keys[1], (5, 5, 1, 5))).astype(jnp.bfloat16)
    cotangent = jax.random.normal(keys[2], x.shape).astype(jnp.bfloat16)

    def all_of(function, *given):
        out, back = jax.vjp(function, *given[:2])
        return [np.float32(each) for each in (out, *back(given[2]))]

    truth = all_of(plain, *(each.astype(jnp.float32) for each in (x, kernel, cotangent)))
    for mine, theirs, true in zip(
        all_of(focal_level, x, kernel, cotangent), all_of(plain, x, kernel, cotangent), truth, strict=True
    ):
        assert np.linalg.norm(mine - true) <= np.linalg.norm(theirs - true)


def test_it_keeps_only_its_inputs_for_the_gradient():
    x, kernel = jnp.ones((2, 8, 8, 4)), jnp.ones((3, 3, 1, 4))
    _, kept = jax.eval_shape(lambda x, kernel: jax.vjp(focal_level, x, kernel), x, kernel)
    assert sum(leaf.size for leaf in jax.tree.leaves(kept)) == x.size + kernel.size
