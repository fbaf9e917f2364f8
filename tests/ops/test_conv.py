"""The convolution of CPUs and its gradients equal XLA's, also sharded over devices."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from focalnet_jax.distributed.mesh import make_mesh, put_batch
from focalnet_jax.ops import conv, native, winograd
from focalnet_jax.ops.compute import EXACT, Compute
from focalnet_jax.ops.conv import choose_conv, same_conv


@pytest.fixture(autouse=True)
def small_convolutions_use_winograd(monkeypatch):
    monkeypatch.setattr(conv, "_LEAST_MACS", 0)


RNG = np.random.default_rng(0)
ORDER = dict(dimension_numbers=("NHWC", "HWIO", "NHWC"), precision="highest")


def relative(ours, theirs):
    return np.linalg.norm(np.asarray(ours) - np.asarray(theirs)) / np.linalg.norm(np.asarray(theirs))


def with_gradients(function, x, kernel):
    out, back = jax.vjp(lambda x, kernel: function(x, kernel, (1, 1), "SAME", **ORDER), x, kernel)
    return out, *back(jnp.sin(out))


@pytest.mark.parametrize(("size", "kernel"), [((9, 14), 3), ((1, 2), 3), ((6, 5), 5)], ids=str)
@pytest.mark.parametrize("devices", [1, 8])
def test_outputs_and_gradients_are_xlas(size, kernel, devices):
    x = RNG.standard_normal((8, *size, 20), np.float32)
    weights = RNG.standard_normal((kernel, kernel, 20, 17), np.float32)
    expected = jax.jit(lambda *given: with_gradients(jax.lax.conv_general_dilated, *given))(x, weights)
    mesh = make_mesh({"data": devices, "fsdp": 1, "tensor": 1}, jax.devices()[:devices])

    @jax.jit
    def sharded(batch, weights):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return with_gradients(same_conv, batch["x"], weights)

    placed = jax.device_put(weights, jax.NamedSharding(mesh, jax.P()))
    for mine, other in zip(sharded(put_batch({"x": x}, mesh), placed), expected, strict=True):
        assert relative(mine, other) < 1e-5  # float32 sums in different orders


@pytest.mark.parametrize("rows", [1, 2, 5, 6, 11, 22, 44])  # parts of images, whole images, several images
def test_parts_that_are_computed_one_after_another_are_the_whole(rows, monkeypatch):
    x, weights = (RNG.standard_normal(shape, np.float32) for shape in ((4, 21, 30, 20), (3, 3, 20, 17)))
    expected = with_gradients(jax.lax.conv_general_dilated, x, weights)
    monkeypatch.setattr(winograd, "_BYTES", rows * 15 * 20 * 16 * 4)
    for mine, other in zip(jax.jit(partial(with_gradients, same_conv))(x, weights), expected, strict=True):
        assert relative(mine, other) < 1e-5  # float32 sums in different orders


@pytest.mark.skipif(native.register() is None, reason="there is no C++ compiler")
def test_only_float32_on_cpus_has_products_in_cpp():
    assert choose_conv(EXACT) is jax.lax.conv_general_dilated
    assert choose_conv(Compute(jnp.bfloat16, None, aggregation="native")) is jax.lax.conv_general_dilated
    compute = Compute(jnp.float32, None, aggregation="native")
    x, weights = jnp.ones((2, 18, 20, 20)), jnp.ones((3, 3, 20, 17))
    program = str(jax.make_jaxpr(lambda x, weights: with_gradients(choose_conv(compute), x, weights))(x, weights))
    products = [program.count(f"{native.register()}_{name}") for name in ("product", "transposed_product")]
    assert products == [2 * 16, 16]  # Winograd's algorithm, for the output, the gradient of x, and that of the kernel
