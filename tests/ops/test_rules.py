"""Derivative rules of functions inside a loop that is differentiated twice."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from focalnet_jax.ops import gelu
from focalnet_jax.ops.aggregation import _add_in_kernel, aggregate_context
from focalnet_jax.ops.depthwise import depthwise_conv
from focalnet_jax.ops.levels import levels_in_kernels, levels_in_passes
from focalnet_jax.ops.mosaic import fast_memory, plan
from focalnet_jax.ops.normalization import layer_norm, layer_norm_in_xla
from focalnet_jax.ops.shifted import focal_level


def by_kernels_for_gpus(x, kernel):
    return sum(levels_in_kernels(x, x[..., :2], (kernel,), True))


def by_kernels_for_tpus(x, kernel):
    gates, bias = x[..., :2], jnp.zeros((1, 1, 1, x.shape[-1]))
    total, last = levels_in_passes(x, gates, (kernel,), bias, fast_memory(), True)
    return _add_in_kernel(total, gates, last, True)


FUNCTIONS = {
    "GELU": lambda x, kernel: gelu.activate(x * kernel[0, 0, 0]),
    "convolution": depthwise_conv,
    "shifted": focal_level,
    "LayerNorm": lambda x, kernel: layer_norm_in_xla(x, kernel[0, 0, 0], kernel[0, 1, 0], 1e-5),
    "LayerNorm of bfloat16": lambda x, kernel: layer_norm_in_xla(
        x.astype(jnp.bfloat16), kernel[0, 0, 0], kernel[0, 1, 0], 1e-5
    ),
    "LayerNorm in C++": lambda x, kernel: layer_norm(x, kernel[0, 0, 0], kernel[0, 1, 0], 1e-5, "native"),
    "C++": lambda x, kernel: aggregate_context(x, x[..., :2], [kernel], implementation="native"),
    "Triton": by_kernels_for_gpus,
    "Mosaic": by_kernels_for_tpus,
}


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_a_loop_has_the_gradients_of_its_steps_one_by_one(function, monkeypatch):
    monkeypatch.setattr(plan, "_REGISTERS", 1)  # small tiles compile soon
    keys = jax.random.split(jax.random.key(0), 3)
    batches, kernel = jax.random.normal(keys[0], (2, 2, 3, 3, 32)), jax.random.normal(keys[1], (3, 3, 1, 32))
    weight = jax.random.normal(keys[2], (32,))

    def weight_gradient(batches, kernel, loop):
        def add(state, x):
            weight, value = state
            return (weight, value + jnp.tanh(function(x, kernel) * weight).sum(dtype=jnp.float32)), None

        def loss(weight):
            if loop:
                return jax.lax.scan(add, (weight, 0.0), batches)[0][1]
            return sum(add((weight, 0.0), x)[0][1] for x in batches)

        return jnp.sum(jax.grad(loss)(weight) ** 2)

    gradients = jax.jit(jax.grad(weight_gradient, (0, 1)), static_argnums=2)
    for ours, theirs in zip(*(gradients(batches, kernel, loop) for loop in (True, False)), strict=True):
        # float32 roundings in a different order. Using the arrays of a different argument would change the first digit.
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5 * np.abs(theirs).max())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gelu_has_its_second_derivative(dtype):
    x = jnp.linspace(-6, 6, 49).astype(dtype)
    slope = jax.vmap(jax.grad(lambda x: gelu.activate(x).astype(jnp.float32)))
    second = jax.vmap(jax.grad(lambda x: slope(x[None])[0].astype(jnp.float32)))(x)
    wide = np.float64(x)
    exact = (2 - wide**2) * np.exp(-(wide**2) / 2) / np.sqrt(2 * np.pi)
    np.testing.assert_allclose(np.float64(second), exact, rtol=0, atol={"float32": 1e-6, "bfloat16": 4e-3}[dtype])
