"""On a mesh with any axes, kernels compute each device's examples, and no array is gathered."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from focalnet_jax.errors import UserError
from focalnet_jax.ops import native
from focalnet_jax.ops.aggregation import _add_in_kernel, aggregate_context
from focalnet_jax.ops.levels import levels_in_kernels, levels_in_passes
from focalnet_jax.ops.mosaic import fast_memory
from tests.ops.aggregating import error, inputs

needs_compiler = pytest.mark.skipif(native.register() is None, reason="there is no C++ compiler")


def natively(context, gates, kernels):
    return aggregate_context(context, gates, kernels, implementation="native")


def on_nvidia(context, gates, kernels):
    total, last = levels_in_kernels(context, gates, kernels, True)
    return total + last


def on_tpus(context, gates, kernels):
    bias = jnp.zeros((1, 1, 1, context.shape[-1]))
    total, last_sum = levels_in_passes(context, gates, kernels, bias, fast_memory(), True)
    return _add_in_kernel(total, gates, last_sum, True)


IMPLEMENTATIONS = [pytest.param(natively, marks=needs_compiler), on_nvidia, on_tpus]


def mesh():
    return jax.make_mesh((2, 2), ("rows", "columns"), axis_types=(AxisType.Auto,) * 2)


def gradients(implementation, cotangent, *given):
    made, back = jax.vjp(implementation, *given)
    return made, back(cotangent)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_split_batch_stays_split(implementation):
    given, (cotangent, _) = inputs((8, 4, 4, 32), (3,), with_bias=False)
    given = (cotangent, *given)
    run = partial(gradients, implementation)
    split, whole = NamedSharding(mesh(), P(("rows", "columns"))), NamedSharding(mesh(), P())
    placed = jax.device_put(given, (split, split, split, whole))
    compiled = jax.jit(run).lower(*placed).compile()
    assert " all-gather" not in compiled.as_text()
    made, (to_context, to_gates, to_kernels) = ours = compiled(*placed)
    assert all(x.sharding.is_equivalent_to(split, x.ndim) for x in (made, to_context, to_gates))
    assert all(x.sharding.is_fully_replicated for x in to_kernels)
    for one, many in zip(jax.tree.leaves(jax.jit(run)(*given)), jax.tree.leaves(ours), strict=True):
        assert error(many, one) < 1e-6  # sums over devices have a different order


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_parts_that_are_not_equal_are_computed_whole(implementation):
    given, _ = inputs((8, 4, 4, 32), (3,), with_bias=False)
    some = jax.jit(lambda context, gates, kernels: implementation(context[:6], gates[:6], kernels))
    split, whole = NamedSharding(mesh(), P(("rows", "columns"))), NamedSharding(mesh(), P())
    assert error(some(*jax.device_put(given, (split, split, whole))), some(*given)) < 1e-6


@needs_compiler
def test_other_dimensions_than_the_batch_are_gathered_for_a_kernel():
    given, _ = inputs((4, 4, 4, 32), (3,), with_bias=False)
    rows, channels = (NamedSharding(mesh(), spec) for spec in (P("rows", "columns"), P(None, None, None, "rows")))
    placed = jax.device_put(given, (rows, NamedSharding(mesh(), P("columns")), channels))
    assert error(jax.jit(natively)(*placed), natively(*given)) < 1e-6
    assert error(natively(*placed), natively(*given)) < 1e-6  # not compiled


@needs_compiler
def test_a_batch_of_split_batches_is_computed_one_by_one():
    given, _ = inputs((8, 4, 4, 32), (3,), with_bias=False)
    given = (*(x.reshape(2, 4, *x.shape[1:]) for x in given[:2]), given[2])
    pairs = jax.jit(jax.vmap(natively, (0, 0, None)))
    split = NamedSharding(mesh(), P(None, ("rows", "columns")))
    np.testing.assert_array_equal(
        pairs(*jax.device_put(given, (split, split, NamedSharding(mesh(), P())))), pairs(*given)
    )


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_second_derivatives_of_kernels_are_refused(implementation):
    (context, *rest), _ = inputs((1, 3, 3, 32), (3,), with_bias=False)

    def slope(context):
        return jax.grad(lambda context: (implementation(context, *rest) ** 2).sum())(context).sum()

    with pytest.raises(UserError, match=r"model\.aggregation=xla and model\.pointwise=xla"):
        jax.jit(jax.grad(slope))(context)
