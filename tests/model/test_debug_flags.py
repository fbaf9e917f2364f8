"""JAX's debug flags report no errors for a healthy model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from focalnet_jax.ops import native
from tests.models import drawn_model

FLAGS = ("jax_debug_nans", "jax_debug_infs", "jax_enable_checks")


@pytest.fixture(autouse=True)
def _searching():
    before = {name: getattr(jax.config, name) for name in FLAGS}
    for name in FLAGS:
        jax.config.update(name, True)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def leave_nan_in_memory(*sizes):
    """Frees memory of the given number of values, filled with NaN, so that later arrays may contain it."""
    arrays = [np.full(size, np.nan, np.float32) for size in sizes for _ in range(64)]
    del arrays


@pytest.mark.skipif(native.register() is None, reason="there is no C++ compiler")
@pytest.mark.parametrize("transposed", [False, True])
def test_scratch_memory_of_a_product_does_not_reach_its_result(transposed):
    x, kernel = jnp.ones((2, 16, 16, 32)), jnp.ones((32, 32))
    for _ in range(8):
        leave_nan_in_memory(32 * 32)
        np.testing.assert_array_equal(native.product(x, kernel, transposed=transposed), np.full(x.shape, 32))
        leave_nan_in_memory(32 * 32, 16 * 32 * 32, 32 * 32 * 32)
        np.testing.assert_array_equal(native.transposed_product(x, x), np.full((32, 32), 512))


@pytest.fixture
def kernels(monkeypatch):
    """Records the names of the C++ kernels that are called."""
    called, call = set(), native._call
    monkeypatch.setattr(
        native, "_call", lambda name, *given, **options: called.add(name) or call(name, *given, **options)
    )
    return called


@pytest.mark.parametrize("implementation", ["auto", "shifted", "xla"])
def test_a_call_and_its_gradients_raise_nothing(implementation, kernels):
    model = drawn_model("focalnet_tiny_srf", embed_dim=16, depths=(1, 2), num_classes=3, aggregation=implementation)
    graph, params = nnx.split(model)
    x = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
    leave_nan_in_memory(16 * 32, 16 * 64, 32 * 128, 48 * 32)

    def loss(params, x):
        return nnx.merge(graph, params)(x, jax.random.key(1)).sum()

    gradients = jax.grad(loss, argnums=(0, 1))(
        params, x
    )  # not compiled, so the flags check the result of every operation
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    in_cpp = {"focal_levels", "layer_norm", "gelu_with_bias", "product"}
    back = {
        "focal_level_gradients",
        "layer_norm_gradients",
        "gelu_gradients",
        "product_of_transposed",
        "transposed_product",
    }
    assert kernels == (in_cpp | back if implementation == "auto" and native.register() is not None else set())


def test_nan_in_the_input_is_still_found():
    model = drawn_model("focalnet_tiny_srf", embed_dim=16, depths=(1, 1), num_classes=3)
    with pytest.raises(FloatingPointError):
        model(jnp.full((1, 32, 32, 3), np.nan))
