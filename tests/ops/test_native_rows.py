"""The C++ kernels for layers that process positions separately compute the same as XLA's layers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from focalnet_jax.errors import UserError
from focalnet_jax.model.blocks import Mlp
from focalnet_jax.model.layers import conv
from focalnet_jax.ops.activation import activated_product
from focalnet_jax.ops.compute import EXACT, Compute
from focalnet_jax.ops.embedding import strided_conv
from focalnet_jax.ops.normalization import layer_norm
from tests.models import drawn_model
from tests.ops.aggregating import assert_on_a_mesh_as_alone, error

NATIVE = Compute(EXACT.dtype, EXACT.matmul, "native")
# Rows and channels that do not fill a register, a square of registers or a task; more channels than values in a task.
SHAPES = [(2, 5, 3, 20), (1, 7, 7, 96), (3, 5), (4, 9, 11, 17), (2, 100, 128), (1, 1, 17, 20000)]


def normals(*shapes):
    rng = np.random.default_rng(0)  # compiles no program per shape, as JAX's would
    return [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]


def with_gradients(function, arguments, cotangent):
    def run(arguments, cotangent):
        result, back = jax.vjp(function, *arguments)
        return result, *back(cotangent)

    return jax.jit(run)(arguments, cotangent)


def exactly(function, arguments, cotangent):
    with jax.enable_x64(True):
        return with_gradients(function, *jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), (arguments, cotangent)))


def plain_norm(x, scale, bias):
    centred = x - x.mean(-1, keepdims=True)
    return centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * scale + bias


def norm(x, scale, bias):
    return layer_norm(x, scale, bias, 1e-5, "native")


@pytest.mark.parametrize("shape", SHAPES)
def test_a_norm_and_its_gradients_are_exact_to_rounding(shape):
    *arguments, cotangent = normals(shape, shape[-1:], shape[-1:], shape)
    arguments[0] = 2 * arguments[0] + 3
    ours = with_gradients(norm, arguments, cotangent)
    for mine, true in zip(ours, exactly(plain_norm, arguments, cotangent), strict=True):
        assert np.abs(np.float64(mine) - np.float64(true)).max() < 2e-6 * max(1, np.abs(np.float64(true)).max())


def test_a_norm_of_numbers_far_from_0_keeps_its_digits():
    x, scale, bias = normals((2, 4, 4, 96), (96,), (96,))
    x += 1000  # float32 represents these values with an error of 6e-5
    assert error(norm(x, scale, bias), exactly(plain_norm, (x, scale, bias), x)[0]) < 1e-4


def plain_product(hidden, bias, kernel):
    return jax.nn.gelu(hidden + bias, approximate=False) @ kernel


def product(hidden, bias, kernel):
    return activated_product(hidden, bias, kernel, jax.lax.Precision.HIGHEST)


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if len(shape) == 4])
def test_a_product_of_gelus_and_its_gradients_are_exact_to_rounding(shape):
    *arguments, cotangent = normals(shape, shape[-1:], (shape[-1], 24), (*shape[:-1], 24))
    ours = with_gradients(product, arguments, cotangent)
    for mine, true in zip(ours, exactly(plain_product, arguments, cotangent), strict=True):
        assert error(mine, true) < 2e-6  # the error of GELU is 3e-7


@pytest.mark.parametrize("size", [(8, 12), (9, 15)])
@pytest.mark.parametrize("stride", [2, 4])
def test_patches_are_embedded_as_by_a_convolution(size, stride):
    x, cotangent = normals((2, *size, 6), (2, size[0] // stride, size[1] // stride, 10))
    graph, params = nnx.split(conv(6, 10, stride, stride, 0, EXACT, nnx.Rngs(0)))

    def run(compute):
        def call(params, x):
            return strided_conv(nnx.merge(graph, params), x, compute)

        assert ("conv_general_dilated" in str(jax.make_jaxpr(call)(params, x))) == (compute == EXACT)
        return with_gradients(call, (params, x), cotangent)

    for mine, other in zip(*(jax.tree.leaves(run(compute)) for compute in (NATIVE, EXACT)), strict=True):
        assert error(mine, other) < 1e-6


def test_devices_that_split_batch_and_channels_compute_the_same():
    hidden, bias, kernel, cotangent = normals((4, 5, 4, 64), (64,), (64, 16), (4, 5, 4, 16))
    assert_on_a_mesh_as_alone(
        lambda *given: with_gradients(product, given[:-1], given[-1]), hidden, bias, kernel, cotangent
    )
    assert_on_a_mesh_as_alone(
        lambda *given: with_gradients(norm, given[:-1], given[-1]), hidden, bias, bias + 1, hidden
    )


def test_a_batch_of_maps_is_computed_one_by_one():
    x, scale, bias = normals((6, 5, 5, 20), (20,), (20,))
    pairs = jax.vmap(lambda x: norm(x, scale, bias))(x.reshape(3, 2, 5, 5, 20))
    assert error(pairs.reshape(x.shape), norm(x, scale, bias)) == 0


def test_second_derivatives_are_refused_by_the_name_of_the_option():
    for function, arguments in ((norm, normals((2, 3, 8), (8,), (8,))), (product, normals((1, 2, 3, 8), (8,), (8, 4)))):

        def slope(x, function=function, rest=arguments[1:]):
            return jax.grad(lambda x: (function(x, *rest) ** 2).sum())(x).sum()

        with pytest.raises(UserError, match=r"create the model with model\.aggregation=xla"):
            jax.grad(slope)(arguments[0])


def test_with_dropout_an_mlp_drops_as_by_xla():
    native_one, other = (Mlp(8, 4, 0.5, compute=compute, rngs=nnx.Rngs(0)) for compute in (NATIVE, EXACT))
    (x,) = normals((3, 4, 4, 8))
    for keys in (None, jax.random.split(jax.random.key(1), 3)):
        assert error(native_one(x, keys), other(x, keys)) < 1e-6
    assert (native_one(x, keys) == 0).any()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_models_gradients_are_those_of_xla(dtype):
    (images,) = normals((2, 16, 16, 3))

    def run(implementation):
        model = drawn_model(
            "focalnet_tiny_lrf", embed_dim=16, depths=(1, 1), num_classes=3, aggregation=implementation, dtype=dtype
        )
        graph, params = nnx.split(model)
        return jax.jit(jax.value_and_grad(lambda params: (nnx.merge(graph, params)(images) ** 2).sum()))(params)

    ours, theirs = (jax.tree.leaves(run(implementation)) for implementation in ("auto", "xla"))
    for mine, other in zip(ours, theirs, strict=True):
        assert error(mine, other) < (1e-5 if dtype == "float32" else 0.1)


@pytest.mark.parametrize(("batch", "levels"), [(4, 2), (3, 3)])
def test_what_a_mesh_cannot_split_evenly_is_computed_all_the_same(batch, levels):
    """For example L + 1 gates on two devices for channels, or images on four devices."""
    options = {"embed_dim": 8, "depths": (1, 1), "num_classes": 3, "focal_levels": (levels, levels)}
    graph, params = nnx.split(drawn_model("focalnet_tiny_lrf", **options, focal_windows=(3, 3)))
    (images,) = normals((batch, 16, 16, 3))
    gradients = jax.grad(lambda params, images: (nnx.merge(graph, params)(images) ** 2).sum())
    assert_on_a_mesh_as_alone(lambda *given: jax.jit(gradients)(*given), params, images)


def test_parameters_of_another_dtype_are_computed_with_in_float32():
    (x,) = normals((2, 8, 8, 3))
    graph, params = nnx.split(drawn_model("focalnet_tiny_srf", embed_dim=8, depths=(1, 1), num_classes=3))
    rounded = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)

    def run(params):
        return jax.jit(jax.value_and_grad(lambda params: (nnx.merge(graph, params)(x) ** 2).sum()))(params)

    (ours, gradients), (expected, _) = run(rounded), run(jax.tree.map(lambda leaf: leaf.astype(jnp.float32), rounded))
    assert abs(ours - expected) <= 1e-5 * abs(expected)
    assert {leaf.dtype for leaf in jax.tree.leaves(gradients)} == {jnp.dtype(jnp.bfloat16)}


def test_a_single_position_in_a_mesh_is_normalized_whole():
    x, scale, bias = normals((8,), (8,), (8,))
    assert_on_a_mesh_as_alone(norm, x, scale, bias)
