"""The matrix product for CPUs and its gradients are exact up to rounding."""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from focalnet_jax.errors import UserError
from focalnet_jax.ops import native
from focalnet_jax.ops.product import kernel_gradient, multiply, product
from tests.commands import run
from tests.models import drawn_model
from tests.ops.aggregating import assert_on_a_mesh_as_alone, error, with_gradients


def times(x, kernel):
    return product(x, kernel, (((x.ndim - 1,), (0,)), ((), ())), precision="highest")


def normals(*shapes):
    rng = np.random.default_rng(0)
    return [rng.normal(size=shape) for shape in shapes]


def assert_exact(results, x, kernel, cotangent):
    """Compares the product, and the gradients of input and kernel, with float64."""
    rows, cotangent_rows = (each.reshape(-1, each.shape[-1]) for each in (x, cotangent))
    for mine, true in zip(results, (x @ kernel, cotangent @ kernel.T, rows.T @ cotangent_rows), strict=True):
        assert mine.shape == true.shape
        # Relative to the largest value: 6e-8 for rounded inputs, and the roundings of sums of at most 384 values.
        assert error(mine, true) < 1e-6


@pytest.mark.parametrize(
    ("shape", "inputs", "outputs"),
    [
        ((1, 1, 1), 1, 1),
        ((3, 5, 7), 24, 40),
        ((1, 3, 5), 16, 32),  # fills a register and a tile
        ((1, 2, 7), 17, 33),  # one value more
        ((2, 16, 17), 400, 520),  # more than one block of everything
        ((4, 30, 31), 260, 30),  # a gradient that is the sum of several parts
    ],
)
def test_products_in_cpp_are_the_exact_ones_to_rounding(shape, inputs, outputs):
    x, kernel, cotangent = normals((*shape, inputs), (inputs, outputs), (*shape, outputs))
    given = [jnp.float32(each) for each in (x, kernel, cotangent)]
    to_x, to_kernel = native.product(given[2], given[1], transposed=True), native.transposed_product(given[0], given[2])
    assert_exact((native.product(*given[:2]), to_x, to_kernel), x, kernel, cotangent)


def test_they_are_where_registers_hold_half_as_much(tmp_path):
    flags = Path("/proc/cpuinfo").read_text() if os.path.exists("/proc/cpuinfo") else ""
    narrow = "-mno-avx512f" if " avx512f " in flags else "-g0"
    environment = {"CXX": f"{native.build.compiler()[0]} {narrow}", "XDG_CACHE_HOME": str(tmp_path)}
    done = run("-m", "pytest", "-q", "-p", "no:xdist", f"{__file__}::{NARROW}", env=os.environ | environment)
    assert done.returncode == 0, done.stdout
    assert list((tmp_path / "focalnet_jax").iterdir())


NARROW = test_products_in_cpp_are_the_exact_ones_to_rounding.__name__


@pytest.mark.parametrize("shape", [(3, 5, 7), (3, 7, 7), (150,)])  # few rows, many rows, and no map
@pytest.mark.parametrize("outputs", [4, 40])
def test_a_layers_gradients_are_the_exact_ones_whoever_computes_them(shape, outputs):
    x, kernel, cotangent = normals((*shape, 24), (24, outputs), (*shape, outputs))
    given = [jnp.float32(each) for each in (x, kernel, cotangent)]
    assert_exact(with_gradients(times, given[:2], given[2]), x, kernel, cotangent)


@pytest.mark.parametrize(("batch", "inputs", "outputs"), [(0, 24, 40), (2, 0, 40), (2, 24, 0)])
def test_what_is_empty_is_computed_too(batch, inputs, outputs):
    x, kernel, cotangent = normals((batch, 9, 9, inputs), (inputs, outputs), (batch, 9, 9, outputs))
    results = with_gradients(times, (jnp.float32(x), jnp.float32(kernel)), jnp.float32(cotangent))
    for mine, shape in zip(results, (cotangent.shape, x.shape, kernel.shape), strict=True):
        assert mine.shape == shape
        assert not mine.any()


def test_other_shapes_are_refused():
    x, kernel, cotangent_rows = (jnp.ones(shape) for shape in ((3, 9, 9, 24), (24, 40), (3, 9, 9, 40)))
    with pytest.raises(
        ValueError, match=r"shape \(24, 40\) and its input \(3, 9, 9, 40\); expected \[I, O\] and \[..., I\]$"
    ):
        multiply(cotangent_rows, kernel, None)
    with pytest.raises(
        ValueError, match=r"shape \(24, 40\) and its input \(3, 9, 9, 24\); expected \[I, O\] and \[..., O\]"
    ):
        multiply(x, kernel, None, transposed=True)
    with pytest.raises(ValueError, match="expected the same shape except for the last axis"):
        kernel_gradient(x[:2], cotangent_rows, None)


def test_a_model_accepts_a_batch_of_zero_images():
    model = drawn_model("focalnet_tiny_srf", embed_dim=8, depths=(1,), num_classes=3)
    assert model(jnp.ones((0, 8, 8, 3))).shape == (0, 3)


def test_a_kernel_of_another_dtype_is_left_to_xla():
    x, kernel = normals((3, 9, 9, 24), (24, 40))
    given = jnp.float32(x), jnp.bfloat16(kernel)
    np.testing.assert_array_equal(times(*given), jnp.matmul(*given, precision="highest"))


def test_second_derivatives_are_refused_by_the_name_of_the_option():
    x, kernel = (jnp.float32(each) for each in normals((3, 9, 9, 24), (24, 40)))

    def slope(kernel):
        return jax.grad(lambda kernel: (times(x, kernel) ** 2).sum())(kernel).sum()

    with pytest.raises(UserError, match=r"for second derivatives, create the model with model\.aggregation=xla"):
        jax.grad(slope)(kernel)


@pytest.mark.parametrize("axes", [("data", "fsdp"), ("data", "tensor")])
@pytest.mark.parametrize("batch", [4, 3])
def test_devices_compute_their_examples_in_cpp_where_they_have_all_channels(axes, batch, monkeypatch):
    called = {"product": [], "transposed_product": []}

    def watched(name, function):
        def call(x, *rest, **options):
            called[name].append(x.shape[:3])
            return function(x, *rest, **options)

        return call

    for name in called:
        monkeypatch.setattr(native, name, watched(name, getattr(native, name)))
    given = [jnp.float32(each) for each in normals((batch, 9, 9, 24), (24, 40), (batch, 9, 9, 40))]
    assert_on_a_mesh_as_alone(lambda *given: with_gradients(times, given[:2], given[2]), *given, axes=axes)
    # Without a mesh, all examples. On a mesh, a device's examples, or all if they cannot be divided equally; XLA if
    # channels are sharded.
    whole, part = (batch, 9, 9), (1 if batch == 4 else batch, 9, 9)
    on_the_mesh = [part] * ("tensor" not in axes)
    assert called == {"product": [whole] * 2 + on_the_mesh * 2, "transposed_product": [whole, *on_the_mesh]}
