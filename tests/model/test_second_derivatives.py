"""Gradients of gradients, as penalties on gradients and products with Hessians need them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from focalnet_jax import create_model
from focalnet_jax.errors import UserError
from focalnet_jax.ops import native


def penalty_gradients(form, scan, remat="none"):
    """Those of parameters and images of the squared gradient that images have."""
    options = dict(
        embed_dim=8, depths=(2,), focal_levels=1, num_classes=2, aggregation=form, scan_blocks=scan, remat=remat
    )
    graph, params = nnx.split(create_model("focalnet_tiny_srf", **options))
    params = jax.tree.map(lambda leaf: leaf + 0.2 * jax.random.normal(jax.random.key(leaf.size), leaf.shape), params)
    images = jax.random.normal(jax.random.key(0), (1, 8, 8, 3))

    def penalty(params, images):
        return jnp.sum(jax.grad(lambda images: nnx.merge(graph, params)(images).sum())(images) ** 2)

    return jax.tree.leaves(jax.jit(jax.grad(penalty, (0, 1)))(params, images))


@pytest.fixture(scope="module")
def unrolled():
    return penalty_gradients("xla", scan=False)


@pytest.mark.parametrize(("form", "remat"), [("xla", "none"), ("shifted", "none"), ("xla", "full")])
def test_blocks_in_a_loop_have_the_second_derivatives_of_unrolled_ones(form, remat, unrolled):
    for ours, theirs in zip(penalty_gradients(form, scan=True, remat=remat), unrolled, strict=True):
        # Two passes back over two blocks of float32; a rule given another block's arrays is wrong in the first digit.
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4 * np.abs(theirs).max())


@pytest.mark.skipif(native.register() is None, reason="there is no C++ compiler")
def test_the_native_form_says_which_form_has_them():
    with pytest.raises(UserError, match=r"first derivatives alone.*model.aggregation=xla"):
        penalty_gradients("native", scan=False)
