"""The kernels for GPUs compute what XLA's form does; here step by step on the CPU."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from focalnet_jax.distributed.mesh import make_mesh
from focalnet_jax.errors import UserError
from focalnet_jax.ops import triton
from focalnet_jax.ops.aggregation import _aggregate, _aggregate_in_kernels, choose_form
from focalnet_jax.ops.gelu import gelu, gelu_slope


def inputs(shape, sizes, dtype=jnp.float32):
    """Context, gates, kernels and the sum's cotangent."""
    keys = iter(jax.random.split(jax.random.key(0), 3 + len(sizes)))
    context = jax.random.normal(next(keys), shape, dtype)
    gates = jax.random.normal(next(keys), (*shape[:3], len(sizes) + 1), dtype)
    cotangent = jax.random.normal(next(keys), shape, dtype)
    kernels = tuple(jax.random.normal(next(keys), (k, k, 1, shape[-1]), dtype) / k for k in sizes)
    return (context, gates, kernels), cotangent


def in_kernels(context, gates, kernels):
    return _aggregate_in_kernels(context, gates, kernels, True)


def with_gradients(function, arguments, cotangent):
    """The result, and the gradients of context, gates and kernels."""

    def run(arguments, cotangent):
        total, back = jax.vjp(function, *arguments)
        return total, back(cotangent)

    return jax.tree.leaves(jax.jit(run)(arguments, cotangent))


def error(ours, truth):
    """The largest difference over the largest number."""
    return np.abs(np.float64(ours) - np.float64(truth)).max() / np.abs(np.float64(truth)).max()


@pytest.mark.parametrize(
    ("shape", "sizes"),
    [
        ((2, 7, 7, 64), (3, 5, 7)),  # an odd map, half a block of channels
        ((1, 9, 10, 96), (3, 5)),  # channels that only 32 divides, rows and columns that no tile does
        ((1, 6, 12, 32), (5, 7, 9)),
        ((1, 2, 3, 32), (3, 5, 7, 9)),  # kernels wider than the map
        ((1, 8, 8, 128), (3,)),
    ],
)
def test_sum_and_gradients_are_those_of_xla(shape, sizes):
    arguments, cotangent = inputs(shape, sizes)
    ours, theirs = (with_gradients(function, arguments, cotangent) for function in (in_kernels, _aggregate))
    assert error(ours[0], theirs[0]) < 1e-6  # sums of up to 81 products in another order, 6e-8 a rounding
    for mine, other in zip(ours[1:], theirs[1:], strict=True):
        assert error(mine, other) < 1e-5


def test_bfloat16_is_no_further_from_the_truth_than_xlas():
    arguments, cotangent = inputs((2, 14, 14, 32), (3, 5, 7), jnp.bfloat16)
    with jax.enable_x64(True):
        exact = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), (arguments, cotangent))
        truth = with_gradients(_aggregate, *exact)
    for mine, other, true in zip(
        with_gradients(in_kernels, arguments, cotangent), with_gradients(_aggregate, arguments, cotangent), truth,
        strict=True,
    ):  # fmt: skip
        mine, other = (np.float64(x) - np.float64(true) for x in (mine, other))
        assert np.sqrt((mine**2).mean()) <= 1.05 * np.sqrt((other**2).mean())


def test_devices_that_split_batch_and_channels_compute_the_same():
    arguments, cotangent = inputs((4, 5, 6, 64), (3, 5))
    alone = with_gradients(in_kernels, arguments, cotangent)
    mesh = make_mesh({"data": 2, "fsdp": 2, "tensor": 2})
    (context, gates, kernels), cotangent = jax.device_put((arguments, cotangent), NamedSharding(mesh, PartitionSpec()))

    def split(*arguments):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return in_kernels(*arguments)

    together = with_gradients(split, (context, gates, kernels), cotangent)
    for one, many in zip(alone, together, strict=True):
        assert error(many, one) < 1e-6  # what devices add up is added in another order


def test_gelu_and_its_slope_are_exact_to_float32s_rounding():
    z = np.linspace(-12, 12, 200_001).astype(np.float32)
    below = np.array([0.5 * math.erfc(-x / math.sqrt(2)) for x in z.astype(np.float64)])
    bell = np.exp(-0.5 * z.astype(np.float64) ** 2) / math.sqrt(2 * math.pi)
    assert (np.abs(gelu(jnp.asarray(z)) - z * below) <= 2.5e-7 * np.abs(z)).all()  # as it says: four roundings
    assert np.abs(gelu_slope(jnp.asarray(z)) - (below + z * bell)).max() < 3e-7  # of numbers up to 1.13


def test_shapes_it_cannot_compute_are_left_to_xla():
    assert triton.supports(96, (3, 9))
    assert not triton.supports(48, (3,))
    assert not triton.supports(64, (3, 11))


def test_a_form_that_a_platform_has_not_is_refused():
    assert choose_form("auto", "cpu") == choose_form("auto", "tpu") == choose_form("xla", "gpu") == "xla"
    assert choose_form("auto", "gpu") == choose_form("auto", "cuda") == "triton"
    with pytest.raises(UserError, match="needs NVIDIA GPUs, the devices are cpu"):
        choose_form("triton", "cpu")
    with pytest.raises(UserError, match="expected one of auto, xla, triton\\. Did you mean 'triton'"):
        choose_form("trito", "gpu")
