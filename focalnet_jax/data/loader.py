"""Batches in an order that is a pure function of seed and step.

Position p of the global stream (p = step * batch_size + place in the batch) decides alone which example stands there
and with which random numbers it is augmented. A run resumes from its step, and hosts take contiguous slices of every
global batch, so the stream does not depend on where or in how many parts it is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import grain
import numpy as np
from grain.experimental import index_shuffle

from focalnet_jax.data.sources import Source
from focalnet_jax.data.transforms import EvalTransform, TrainTransform, to_image
from focalnet_jax.errors import UserError

Batch = dict[str, np.ndarray]


@dataclass(frozen=True)
class Host:
    """Which part of every global batch this process reads."""

    index: int = 0
    count: int = 1

    def slice(self, batch_size: int) -> range:
        """Places in the global batch, contiguous."""
        size = batch_size // self.count
        return range(self.index * size, (self.index + 1) * size)


def steps_per_epoch(examples: int, batch_size: int) -> int:
    """Whole batches in one pass; the rest of a shuffled pass is left out, as the recipes do."""
    if batch_size > examples:
        raise UserError(
            f"batch_size={batch_size} is larger than the {examples} training examples: "
            f"set --config.batch_size={examples} or less"
        )
    return examples // batch_size


def shuffled_index(position: int, examples: int, batch_size: int, seed: int) -> int:
    """The example at `position` of the training stream: a new permutation every epoch."""
    epoch, place = divmod(position, steps_per_epoch(examples, batch_size) * batch_size)
    epoch_seed = int(np.random.SeedSequence((seed, epoch)).generate_state(1)[0])
    return index_shuffle(place, max_index=examples - 1, seed=epoch_seed, rounds=4)


def train_batches(
    source: Source,
    transform: TrainTransform,
    *,
    batch_size: int,
    seed: int,
    start_step: int,
    end_step: int,
    threads: int,
    host: Host = Host(),
) -> Iterator[Batch]:
    """This host's slices of the global batches of steps `start_step` to `end_step`.

    Yields:
      `image` `[B / hosts, S, S, 3]` uint8 and `label` `[B / hosts]` int32.
    """
    local = host.slice(batch_size)

    def example(flat: int) -> Batch:
        step, place = divmod(flat, len(local))
        position = (start_step + step) * batch_size + local[place]
        picture, label = source[shuffled_index(position, len(source), batch_size, seed)]
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, position))))
        return {"image": transform(to_image(picture), rng), "label": np.int32(label)}

    return _read((end_step - start_step) * len(local), example, len(local), threads)


def eval_batches(
    source: Source, transform: EvalTransform, *, batch_size: int, threads: int, host: Host = Host()
) -> Iterator[Batch]:
    """This host's slices of batches that hold every example exactly once.

    The last batch is filled up; `mask` is 1 for an example and 0 for filling, which must not be counted.

    Yields:
      `image` `[B / hosts, S, S, 3]` uint8, `label` `[B / hosts]` int32, `mask` `[B / hosts]` float32.
    """
    local = host.slice(batch_size)
    batches = -(-len(source) // batch_size)

    @cache
    def filling() -> np.ndarray:
        return np.zeros_like(transform(to_image(source[0][0])))

    def example(flat: int) -> Batch:
        batch, place = divmod(flat, len(local))
        index = batch * batch_size + local[place]
        if index >= len(source):
            return {"image": filling(), "label": np.int32(0), "mask": np.float32(0)}
        picture, label = source[index]
        return {"image": transform(to_image(picture)), "label": np.int32(label), "mask": np.float32(1)}

    return _read(batches * len(local), example, len(local), threads)


def _read(count: int, example: Callable[[int], Batch], batch_size: int, threads: int) -> Iterator[Batch]:
    dataset = grain.MapDataset.range(count).map(example)
    ahead = max(2 * threads, 2 * batch_size)
    examples = dataset.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead))
    batches = examples.batch(batch_size, drop_remainder=True)
    return iter(grain.experimental.ThreadPrefetchIterDataset(batches, prefetch_buffer_size=2))
