"""The GPU kernels compute the same as XLA's implementation; here they are interpreted on a CPU."""

import pytest

from focalnet_jax.ops import triton
from focalnet_jax.ops.levels import levels_in_kernels
from tests.ops.aggregating import (
    assert_as_xla,
    assert_no_further_from_the_truth_than_xla,
    assert_same_on_a_mesh,
    with_sum,
)


def in_kernels(context, gates, kernels):
    return with_sum(*levels_in_kernels(context, gates, kernels, True))


@pytest.mark.parametrize(
    ("shape", "sizes"),
    [
        ((1, 7, 7, 64), (7,)),  # an odd map, half a block of channels
        ((1, 5, 6, 96), (3, 5)),  # channels in multiples of 32 only, an uneven number of tiles
        ((1, 2, 3, 32), (9,)),  # kernels wider than the map
        ((1, 8, 8, 128), (3,)),
    ],
)
def test_sum_and_gradients_are_those_of_xla(shape, sizes):
    assert_as_xla(in_kernels, shape, sizes)


def test_bfloat16_is_no_further_from_the_truth_than_xlas():
    assert_no_further_from_the_truth_than_xla(in_kernels, (2, 8, 8, 32), (3, 5))


def test_devices_that_split_batch_and_channels_compute_the_same():
    assert_same_on_a_mesh(in_kernels, (4, 5, 4, 64), (3,))


def test_shapes_it_cannot_compute_are_left_to_xla():
    assert triton.supports(96, (3, 9))
    assert not triton.supports(48, (3,))
    assert not triton.supports(64, (3, 11))
