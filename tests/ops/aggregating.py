"""Inputs, gradients and errors, for tests of the aggregation's implementations."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from focalnet_jax.distributed.mesh import make_mesh
from focalnet_jax.ops.depthwise import depthwise_conv_reference
from focalnet_jax.ops.gelu import activate
from focalnet_jax.ops.levels import sum_levels, xla_level


def levels_by_xla(context, gates, kernels, bias=0.0, level_of=xla_level):
    """Returns the gated sum of all levels except the global level, and the last level's sum over H and W."""
    return with_sum(*sum_levels(context + bias, gates, kernels, level_of))


def levels_by_convolutions(context, gates, kernels, bias=0.0):
    """Like `levels_by_xla`, but with XLA's convolutions, which compile faster and run more slowly."""
    return levels_by_xla(context, gates, kernels, bias, lambda x, kernel: activate(depthwise_conv_reference(x, kernel)))


def with_sum(total, last):
    """Returns the sum, and the last level `[B, H, W, C]` summed over H and W."""
    return total, last.astype(jnp.promote_types(last.dtype, jnp.float32)).sum((1, 2))


def inputs(shape, sizes, with_bias, dtype=jnp.float32):
    """Returns context, gates, kernels and (for implementations that add it) the bias; and the cotangents."""
    rng = np.random.default_rng(0)  # compiles no program per shape, as JAX's would

    def normal(*shape, dtype=dtype, scale=1.0):
        return jnp.asarray(rng.normal(0, scale, shape).astype(dtype))

    context = normal(*shape)
    gates = normal(*shape[:3], len(sizes) + 1)
    cotangent = normal(*shape)
    to_sum = normal(shape[0], shape[-1], dtype=jnp.float32)
    kernels = tuple(normal(k, k, 1, shape[-1], scale=1 / k) for k in sizes)
    bias = (normal(shape[-1]),) if with_bias else ()
    return (context, gates, kernels, *bias), (cotangent, to_sum)


def with_gradients(function, arguments, cotangents):
    """Returns the results, and the gradients of context, gates, kernels and bias."""

    def run(arguments, cotangents):
        results, back = jax.vjp(function, *arguments)
        return results, back(cotangents)

    return jax.tree.leaves(jax.jit(run)(arguments, cotangents))


def error(ours, truth):
    """Returns the largest difference divided by the largest value."""
    return np.abs(np.float64(ours) - np.float64(truth)).max() / np.abs(np.float64(truth)).max()


def assert_as_xla(function, shape, sizes, with_bias=False):
    arguments, cotangents = inputs(shape, sizes, with_bias)
    ours, theirs = (
        with_gradients(implementation, arguments, cotangents) for implementation in (function, levels_by_convolutions)
    )
    for mine, other in zip(ours[:2], theirs[:2], strict=True):
        assert error(mine, other) < 1e-6  # sums of up to 81 products in a different order, 6e-8 per rounding
    for mine, other in zip(ours[2:], theirs[2:], strict=True):
        assert error(mine, other) < 1e-5


def assert_no_further_from_the_truth_than_xla(function, shape, sizes, with_bias=False, sum_rounded=False):
    """Compares sums and gradients in bfloat16; if `sum_rounded`, the last level's sum is rounded, as in the model."""
    arguments, cotangents = inputs(shape, sizes, with_bias, jnp.bfloat16)
    with jax.enable_x64(True):
        exact = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), (arguments, cotangents))
        truth = with_gradients(levels_by_xla, *exact)
    ours, theirs = (
        with_gradients(implementation, arguments, cotangents) for implementation in (function, levels_by_xla)
    )
    for results in (ours, theirs):
        results[1] = results[1].astype(jnp.bfloat16) if sum_rounded else results[1]
    for mine, other, true in zip(ours, theirs, truth, strict=True):
        mine, other = (np.float64(x) - np.float64(true) for x in (mine, other))
        assert np.sqrt((mine**2).mean()) <= 1.05 * np.sqrt((other**2).mean())


def assert_same_on_a_mesh(function, shape, sizes, with_bias=False):
    """Compares devices that share batch and channels with a single device."""
    arguments, cotangents = inputs(shape, sizes, with_bias)
    assert_on_a_mesh_as_alone(lambda *given: with_gradients(function, *given), arguments, cotangents)


def assert_on_a_mesh_as_alone(function, *given, axes=("data", "fsdp", "tensor")):
    """Compares the results of a function on two devices along each mesh axis with the results on one device."""
    alone = function(*given)
    mesh = make_mesh({axis: 2 if axis in axes else 1 for axis in ("data", "fsdp", "tensor")})
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        together = function(*jax.device_put(given, NamedSharding(mesh, PartitionSpec())))
    for one, many in zip(jax.tree.leaves(alone), jax.tree.leaves(together), strict=True):
        assert error(many, one) < 1e-6  # sums over devices have a different order
