"""The order of training examples and their random numbers, which are pure functions of seed and position.

Position p of the global stream is step * batch_size + index in the batch.
"""

from __future__ import annotations

import threading
from functools import lru_cache

import numpy as np
from grain.experimental import index_shuffle

from focalnet_jax.data.balance import Balance
from focalnet_jax.errors import UserError


def steps_per_epoch(examples: int, batch_size: int) -> int:
    """Returns the number of whole batches in an epoch.

    The remaining examples are dropped, as in the published recipes.

    Raises:
      UserError: the batch is larger than the data set.
    """
    if batch_size > examples:
        raise UserError(
            f"batch_size={batch_size} is larger than the {examples} training examples: "
            f"set --config.batch_size={examples} or less"
        )
    return examples // batch_size


def shuffled_index(
    position: int, examples: int, batch_size: int, seed: int, repeats: int = 1, balance: Balance | None = None
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
    """
    epoch, offset = divmod(position, steps_per_epoch(examples, batch_size) * batch_size)
    index = index_shuffle(offset // repeats, max_index=examples - 1, seed=_epoch_seed(seed, epoch), rounds=4)
    return index if balance is None else balance.example(index, epoch, seed)


class _Generators(threading.local):
    """One random generator per thread, because creating a generator takes longer than all draws of an example."""

    def __init__(self):
        self.bits = np.random.Philox(0)
        self.generator = np.random.Generator(self.bits)


_generators = _Generators()


def generator_at(seed: int, position: int) -> np.random.Generator:
    """Returns this thread's generator, reset to the first random number for `seed` and `position`."""
    state = _generators.bits.state
    state["state"]["key"][:] = seed, position
    state["state"]["counter"][:] = 0
    state |= {"buffer_pos": 4, "has_uint32": 0, "uinteger": 0}  # drops buffered random bits
    _generators.bits.state = state
    return _generators.generator


@lru_cache(maxsize=8)
def _epoch_seed(seed: int, epoch: int) -> int:
    return int(np.random.SeedSequence((seed, epoch)).generate_state(1)[0])
