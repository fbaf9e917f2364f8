"""The order of training examples and their random numbers, which are pure functions of seed and position.

Position p of the global stream is step * batch_size + index in the batch.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from grain.experimental import index_shuffle

from focalnet_jax.data.balance import Balance
from focalnet_jax.errors import UserError

Groups = Sequence[Sequence[int]]
"""Indices of the examples of each group. A batch contains examples of one group; every example is in one group."""


def steps_per_epoch(examples: int, batch_size: int, groups: Groups | None = None) -> int:
    """Returns the number of batches in an epoch.

    Without groups, the examples that do not fill a batch are dropped, as in the published recipes of classification.
    With groups, the last batch of each group is filled by repeating examples of the group, as in mmdetection.

    Raises:
      UserError: the batch is larger than the data set.
    """
    if batch_size > examples:
        raise UserError(
            f"batch_size={batch_size} is larger than the {examples} training examples: "
            f"set --config.batch_size={examples} or less"
        )
    return examples // batch_size if groups is None else sum(_batches_of(groups, batch_size))


def shuffled_index(
    position: int,
    examples: int,
    batch_size: int,
    seed: int,
    repeats: int = 1,
    balance: Balance | None = None,
    groups: Groups | None = None,
) -> int:
    """Returns the index of the example at `position` of the training stream.

    Every epoch has a new permutation of the examples.

    Args:
      position: step * batch_size + index in the batch.
      examples: number of examples.
      batch_size: global batch size.
      seed: seed of the permutations.
      repeats: number of consecutive copies of each example, as in repeated augmentation (arXiv 1901.09335). With more
        than one copy, an epoch has only a part of the examples.
      balance: class-balanced choice of the examples, or None to draw every example equally often.
      groups: see `Groups`, or None for batches of any examples. With groups, `repeats` and `balance` are ignored.
    """
    if groups is not None:
        return _index_in_group(position, batch_size, seed, groups)
    epoch, offset = divmod(position, steps_per_epoch(examples, batch_size) * batch_size)
    index = _shuffled(offset // repeats, examples, _epoch_seed(seed, epoch))
    return index if balance is None else balance.example(index, epoch, seed)


def next_index(index: int, examples: int, groups: Groups | None = None) -> int:
    """Returns the index of the example that replaces the unreadable example at `index`.

    It is the next example, in the same group if there are groups; the first example follows the last.
    """
    if groups is None:
        return (index + 1) % examples
    group = next(group for group in groups if index in group)
    place = int(np.flatnonzero(np.asarray(group) == index)[0])
    return int(group[(place + 1) % len(group)])


def _batches_of(groups: Groups, batch_size: int) -> list[int]:
    """Returns the number of batches of each group in an epoch."""
    return [-(-len(group) // batch_size) for group in groups]


def _index_in_group(position: int, batch_size: int, seed: int, groups: Groups) -> int:
    """Returns the index of the example at `position`. An epoch has the batches of all groups in a random order."""
    counts = _batches_of(groups, batch_size)
    step, row = divmod(position, batch_size)
    epoch, place = divmod(step, sum(counts))
    batch = _shuffled(place, sum(counts), _epoch_seed(seed, epoch))
    number = 0
    while batch >= counts[number]:
        batch -= counts[number]
        number += 1
    group, offset = groups[number], batch * batch_size + row
    turn, offset = divmod(offset, len(group))  # the last batch continues with a new permutation of the group
    return int(group[_shuffled(offset, len(group), _epoch_seed(seed, epoch, 1 + number, turn))])


def _shuffled(place: int, size: int, seed: int) -> int:
    return index_shuffle(place, max_index=size - 1, seed=seed, rounds=4)


class _Generators(threading.local):
    """One random generator per thread, because creating a generator takes longer than all draws of an example."""

    def __init__(self):
        self.bits = np.random.Philox(0)
        self.generator = np.random.Generator(self.bits)


_generators = _Generators()


def generator_at(seed: int, position: int) -> np.random.Generator:
    """Returns this thread's generator, reset to the start of the random numbers of `seed` and `position`."""
    state = _generators.bits.state
    state["state"]["key"][:] = seed, position
    state["state"]["counter"][:] = 0
    state |= {"buffer_pos": 4, "has_uint32": 0, "uinteger": 0}  # drops buffered random bits
    _generators.bits.state = state
    return _generators.generator


@lru_cache(maxsize=32)
def _epoch_seed(seed: int, epoch: int, *parts: int) -> int:
    return int(np.random.SeedSequence((seed, epoch, *parts)).generate_state(1)[0])
