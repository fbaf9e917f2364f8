"""What tests of the aggregation's forms share: inputs, gradients, and how far results are apart."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from focalnet_jax.distributed.mesh import make_mesh
from focalnet_jax.ops.aggregation import aggregate_context


def inputs(shape, sizes, with_bias, dtype=jnp.float32):
    """Context, gates, kernels and, for forms that add it themselves, the bias; and the sum's cotangent."""
    keys = iter(jax.random.split(jax.random.key(0), 4 + len(sizes)))
    context = jax.random.normal(next(keys), shape, dtype)
    gates = jax.random.normal(next(keys), (*shape[:3], len(sizes) + 1), dtype)
    cotangent = jax.random.normal(next(keys), shape, dtype)
    kernels = tuple(jax.random.normal(next(keys), (k, k, 1, shape[-1]), dtype) / k for k in sizes)
    bias = (jax.random.normal(next(keys), shape[-1:], dtype),) if with_bias else ()
    return (context, gates, kernels, *bias), cotangent


def with_gradients(function, arguments, cotangent):
    """The result, and the gradients of context, gates, kernels and bias."""

    def run(arguments, cotangent):
        total, back = jax.vjp(function, *arguments)
        return total, back(cotangent)

    return jax.tree.leaves(jax.jit(run)(arguments, cotangent))


def error(ours, truth):
    """The largest difference over the largest number."""
    return np.abs(np.float64(ours) - np.float64(truth)).max() / np.abs(np.float64(truth)).max()


def assert_as_xla(function, shape, sizes, with_bias=False):
    arguments, cotangent = inputs(shape, sizes, with_bias)
    ours, theirs = (with_gradients(form, arguments, cotangent) for form in (function, aggregate_context))
    assert error(ours[0], theirs[0]) < 1e-6  # sums of up to 81 products in another order, 6e-8 a rounding
    for mine, other in zip(ours[1:], theirs[1:], strict=True):
        assert error(mine, other) < 1e-5


def assert_no_further_from_the_truth_than_xla(function, shape, sizes, with_bias=False):
    """In bfloat16, the form's sum and gradients."""
    arguments, cotangent = inputs(shape, sizes, with_bias, jnp.bfloat16)
    with jax.enable_x64(True):
        exact = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), (arguments, cotangent))
        truth = with_gradients(aggregate_context, *exact)
    for mine, other, true in zip(
        with_gradients(function, arguments, cotangent), with_gradients(aggregate_context, arguments, cotangent), truth,
        strict=True,
    ):  # fmt: skip
        mine, other = (np.float64(x) - np.float64(true) for x in (mine, other))
        assert np.sqrt((mine**2).mean()) <= 1.05 * np.sqrt((other**2).mean())


def assert_same_on_a_mesh(function, shape, sizes, with_bias=False):
    """Devices that split batch and channels, against one."""
    arguments, cotangent = inputs(shape, sizes, with_bias)
    alone = with_gradients(function, arguments, cotangent)
    mesh = make_mesh({"data": 2, "fsdp": 2, "tensor": 2})
    arguments, cotangent = jax.device_put((arguments, cotangent), NamedSharding(mesh, PartitionSpec()))

    def split(*arguments):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(*arguments)

    together = with_gradients(split, arguments, cotangent)
    for one, many in zip(alone, together, strict=True):
        assert error(many, one) < 1e-6  # what devices add up is added in another order
