"""The product for CPUs and its gradients are a product's."""

import jax.numpy as jnp
import numpy as np
import pytest

from focalnet_jax.ops import native
from focalnet_jax.ops.product import product
from tests.ops.aggregating import assert_on_a_mesh_as_alone, with_gradients


def times(x, kernel):
    return product(x, kernel, (((x.ndim - 1,), (0,)), ((), ())), precision="highest")


@pytest.mark.parametrize(
    ("shape", "inputs", "outputs"),
    [
        ((3, 5, 7), 24, 40),
        ((105,), 40, 24),  # no map: XLA's
        ((1, 1, 1), 1, 1),
        ((1, 3, 5), 16, 32),  # a register and a tile, filled
        ((1, 2, 7), 17, 33),  # and one number more
        ((2, 16, 17), 400, 520),  # more than one block of everything
        ((4, 30, 31), 260, 30),  # a gradient of parts that are added up
    ],
)
def test_product_and_gradients_are_the_exact_ones_to_rounding(shape, inputs, outputs):
    rng = np.random.default_rng(0)
    x, kernel, cotangent = (rng.normal(size=s) for s in ((*shape, inputs), (inputs, outputs), (*shape, outputs)))
    ours, to_x, to_kernel = with_gradients(times, (jnp.float32(x), jnp.float32(kernel)), jnp.float32(cotangent))
    exact = x.reshape(-1, inputs).T @ cotangent.reshape(-1, outputs)
    for mine, true in ((ours, x @ kernel), (to_x, cotangent @ kernel.T), (to_kernel, exact)):
        assert mine.shape == true.shape
        # inputs are rounded, 6e-8 each, and a sum of n products n times, or root of n as roundings go
        np.testing.assert_allclose(mine, true, atol=1e-6 * np.abs(true).max())


@pytest.mark.parametrize("axes", [("data", "fsdp"), ("data", "tensor")])
@pytest.mark.parametrize("batch", [4, 3])
def test_devices_compute_their_examples_in_cpp_where_they_have_all_channels(axes, batch, monkeypatch):
    called, product_of = [], native.product
    monkeypatch.setattr(
        native, "product", lambda x, *rest, **options: called.append(x.shape) or product_of(x, *rest, **options)
    )
    rng = np.random.default_rng(0)
    shapes = (batch, 5, 7, 24), (24, 40), (batch, 5, 7, 40)
    x, kernel, cotangent = (jnp.float32(rng.normal(size=shape)) for shape in shapes)
    assert_on_a_mesh_as_alone(
        lambda *given: with_gradients(times, given[:2], given[2]), x, kernel, cotangent, axes=axes
    )
    of_a_device = (1 if batch == 4 else batch, 5, 7, 24)  # what has no equal parts each computes whole
    assert (of_a_device in called[2:]) == ("tensor" not in axes)
