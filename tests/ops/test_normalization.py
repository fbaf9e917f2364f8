"""LayerNorm in bfloat16 and its gradients are as exact as the rounding of input and output allows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from focalnet_jax.model.layers import LayerNorm
from focalnet_jax.ops import normalization
from focalnet_jax.ops.compute import Compute
from focalnet_jax.ops.normalization import layer_norm_in_xla, mean_by_product


def plain(x, scale, bias, epsilon):
    x = x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x
    centred = x - x.mean(-1, keepdims=True)
    return centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + epsilon) * scale + bias


def with_gradients(function, x, scale, bias, cotangent):
    out, back = jax.vjp(lambda *given: function(*given, 1e-5), x, scale, bias)
    return out, *back(cotangent.astype(out.dtype))


@pytest.mark.parametrize("by_product", [False, True])
def test_bfloat16_rounds_no_more_than_what_is_given_and_returned(by_product, monkeypatch):
    if by_product:  # as on a TPU
        monkeypatch.setattr(normalization, "_mean_half", mean_by_product)
    keys = jax.random.split(jax.random.key(0), 4)
    x = (3 + 2 * jax.random.normal(keys[0], (4, 6, 6, 192))).astype(jnp.bfloat16)
    scale, bias = (1 + 0.1 * jax.random.normal(key, (192,)) for key in keys[1:3])
    cotangent = jax.random.normal(keys[3], x.shape).astype(jnp.bfloat16)
    ours = with_gradients(layer_norm_in_xla, x, scale, bias, cotangent)
    with jax.enable_x64(True):
        exact = [jnp.asarray(each, jnp.float64) for each in (x, scale, bias, cotangent)]
        truth = with_gradients(plain, *exact)
    for mine, true, of in zip(ours, truth, (x, x, scale, bias), strict=True):
        error = np.linalg.norm(np.float64(mine) - np.float64(true)) / np.linalg.norm(np.float64(true))
        assert mine.dtype == of.dtype
        # Rounding to bfloat16 has an error of at most 2^-9, 1.7e-3 on average; float32 sums over positions average it.
        assert error < (2e-3 if of is x else 5e-4)


def test_a_models_norms_keep_their_input_alone_for_the_gradient():
    layer = LayerNorm(192, Compute(jnp.bfloat16, None), nnx.Rngs(0))
    x = jax.ShapeDtypeStruct((4, 6, 6, 192), jnp.bfloat16)
    _, kept = jax.eval_shape(lambda x: jax.vjp(layer, x), x)
    assert sum(leaf.size for leaf in jax.tree.leaves(kept)) < 1.05 * x.size
