"""Calls accept every kind of randomness that JAX and Flax have."""

import jax
import numpy as np
import pytest
from flax import nnx

from focalnet_jax.errors import UserError
from tests.models import drawn_model


@pytest.fixture(scope="module")
def model():
    return drawn_model("focalnet_tiny_srf", embed_dim=8, depths=(1, 1), num_classes=3, drop_rate=0.3)


@pytest.fixture(scope="module")
def call(model):
    graph, state = nnx.split(model)
    run = jax.jit(lambda state, images, key: nnx.merge(graph, state)(images, key))
    return lambda images, key: np.asarray(run(state, images, key))


def images(batch):
    return np.random.default_rng(7).normal(size=(batch, 8, 8, 3)).astype(np.float32)


def test_old_prng_keys_draw_the_same_as_new_ones(call):
    x, old, new = (
        images(2),
        jax.random.PRNGKey(3),
        jax.random.key(3),
    )  # the two values of an old key are not the keys of 2 images
    expected = call(x, new)
    np.testing.assert_array_equal(call(x, old), expected)
    np.testing.assert_array_equal(call(x, np.asarray(old)), expected)
    each = call(x, jax.random.split(jax.random.key(4), 2))
    np.testing.assert_array_equal(call(x, jax.random.split(jax.random.PRNGKey(4), 2)), each)
    assert not np.array_equal(each, expected)


def test_streams_of_flax_draw_differently_at_each_call(model):
    call = nnx.jit(lambda model, x, rngs: model(x, rngs))
    x, rngs = images(4), nnx.Rngs(3)
    first, second = call(model, x, rngs), call(model, x, rngs)
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(call(model, x, nnx.Rngs(dropout=3)), first)
    np.testing.assert_array_equal(call(model, x, nnx.Rngs(3).dropout), first)


@pytest.mark.parametrize(
    ("key", "named"),
    [
        (0, "0"),
        (np.int64(3), r"int64 of shape \(\)"),
        (True, "True"),
        ("seed", "seed"),
        (np.zeros(2, np.float32), r"float32 of shape \(2,\)"),
        (np.zeros(3, np.uint32), r"uint32 of shape \(3,\)"),
        (jax.random.split(jax.random.key(0), 3), r"key<fry> of shape \(3,\)"),
        (jax.random.split(jax.random.PRNGKey(0), 3), r"key<fry> of shape \(3,\)"),
        (nnx.Rngs(params=0), "nnx.Rngs without a stream 'dropout' or 'default'"),
    ],
)
def test_an_invalid_key_is_refused_with_what_to_pass(model, key, named):
    with pytest.raises(
        UserError, match=rf"^key is {named.replace('()', '..')}; expected jax.random.key\(seed\), an array of 4"
    ):
        model(images(4), key)
