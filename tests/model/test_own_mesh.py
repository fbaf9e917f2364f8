"""A model in a program with a mesh of its own: what its owner splits stays split."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from focalnet_jax import create_model


@pytest.fixture(scope="module")
def model():
    return create_model("focalnet_tiny_srf", embed_dim=8, depths=(2, 1), num_classes=2)


@pytest.mark.parametrize(
    ("shape", "axes", "kind"),
    [((4,), ("data",), AxisType.Explicit), ((2, 2), ("rows", "cols"), AxisType.Auto)],
    ids=["explicit", "auto, two axes"],
)
def test_logits_and_gradients_of_a_split_batch_gather_nothing(model, shape, axes, kind):
    mesh = jax.make_mesh(shape, axes, axis_types=(kind,) * len(axes))
    graph, params = nnx.split(model)
    images = jax.random.normal(jax.random.key(0), (8, 8, 8, 3))

    def with_gradients(params, images):
        def loss(params):
            logits = nnx.merge(graph, params)(images)
            return jnp.sum(logits**2), logits

        gradients, logits = jax.grad(loss, has_aux=True)(params)
        return logits, gradients

    expected, gradients = jax.jit(with_gradients)(params, images)
    split, everywhere = NamedSharding(mesh, P(axes)), NamedSharding(mesh, P())
    given = jax.device_put(params, everywhere), jax.device_put(images, split)
    compiled = jax.jit(with_gradients).lower(*given).compile()
    assert compiled.as_text().count(" all-gather(") == 0
    logits, split_gradients = compiled(*given)
    assert logits.sharding.is_equivalent_to(NamedSharding(mesh, P(axes, None)), 2)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)
    for ours, theirs in zip(jax.tree.leaves(split_gradients), jax.tree.leaves(gradients), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5 * np.abs(theirs).max())
