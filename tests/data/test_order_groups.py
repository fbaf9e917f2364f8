"""Batches of examples of one group, such as images of one shape."""

import numpy as np
import pytest

from focalnet_jax.data.order import next_index, shuffled_index, steps_per_epoch

GROUPS = [np.array([0, 2, 4, 6, 8, 10, 12]), np.array([1, 3, 5, 7, 9]), np.array([11])]
SIZE = 3


def epoch(number, seed=0):
    steps = steps_per_epoch(13, SIZE, GROUPS)
    first = number * steps * SIZE
    return [
        [shuffled_index(first + step * SIZE + row, 13, SIZE, seed, groups=GROUPS) for row in range(SIZE)]
        for step in range(steps)
    ]


def test_an_epoch_has_every_example_and_fills_the_last_batch_of_each_group():
    batches = epoch(0)
    assert len(batches) == 3 + 2 + 1
    seen = np.bincount(np.ravel(batches), minlength=13)
    for group in GROUPS:
        whole = -(-len(group) // SIZE) * SIZE
        assert seen[group].sum() == whole
        assert seen[group].min() >= 1
        assert seen[group].max() <= -(-whole // len(group))


@pytest.mark.parametrize("seed", range(5))
def test_each_batch_has_examples_of_one_group(seed):
    of = {index: number for number, group in enumerate(GROUPS) for index in group}
    for batch in epoch(1, seed):
        assert len({of[index] for index in batch}) == 1


def test_epochs_and_seeds_have_different_orders_and_each_is_reproducible():
    assert epoch(0) == epoch(0)
    assert epoch(0) != epoch(1)
    assert epoch(0) != epoch(0, seed=1)


def test_groups_are_not_one_after_the_other():
    of = {index: number for number, group in enumerate(GROUPS) for index in group}
    orders = {tuple(of[batch[0]] for batch in epoch(number)) for number in range(10)}
    assert len(orders) > 1


def test_an_unreadable_example_is_replaced_by_one_of_its_group():
    assert [next_index(index, 13, GROUPS) for index in (0, 12, 9, 11)] == [2, 0, 1, 11]
    assert [next_index(index, 13) for index in (0, 12)] == [1, 0]
