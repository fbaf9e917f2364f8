"""Loads batches in an order that is a pure function of seed and step.

The global stream is the sequence of all training examples. Its position p = step * batch_size + index has the example
with this index in the batch of this step. The example and the random numbers of its augmentation depend only on seed
and p. A run can therefore resume at any step, and the stream is the same for any number of hosts, processes and
threads. Each process reads a part of every global batch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import grain
import numpy as np
from absl import flags

from focalnet_jax.data.balance import Balance
from focalnet_jax.data.decode import UnreadableImageError
from focalnet_jax.data.host import Batch, EvalHost, Host
from focalnet_jax.data.order import Groups, generator_at, next_index, shuffled_index
from focalnet_jax.data.prefetch import prefetched
from focalnet_jax.data.source import Source
from focalnet_jax.data.substitutions import READABLE, TRIED, why_unreadable
from focalnet_jax.errors import UserError
from focalnet_jax.system.children import end_with_parent, without_false_alarms

_BATCHES_AHEAD = 2


class Places(Protocol):
    """The part of every global batch that this process reads."""

    def slice(self, batch_size: int) -> Sequence[int]:
        """Returns the indices in the global batch that this process reads, ascending."""


@dataclass(frozen=True)
class HostPlaces:
    """The part that host `index` reads if global batches are divided into `count` equal contiguous parts."""

    index: int = 0
    count: int = 1

    def slice(self, batch_size: int) -> range:
        """Returns the indices in the global batch that this host reads."""
        size = batch_size // self.count
        return range(self.index * size, (self.index + 1) * size)


def never() -> bool:
    """Returns False. This default of `ReadOptions.stopped` never stops a stream."""
    return False


@dataclass(frozen=True)
class ReadOptions:
    """Options for reading batches. They do not change the contents of the batches."""

    threads: int = 16  # threads per process that decode and augment
    workers: int = 0  # number of reader processes; 0 means that this process reads
    stall_seconds: float = 300.0  # the run fails if no batch arrives for this time, see `prefetched`
    host: Places = HostPlaces()
    stopped: Callable[[], bool] = never  # the stream ends early if this returns True and no batch is ready


def train_batches(
    source: Source,
    host: Host,
    *,
    batch_size: int,
    seed: int,
    start_step: int,
    end_step: int,
    repeats: int = 1,
    balance: Balance | None = None,
    groups: Groups | None = None,
    reading: ReadOptions = ReadOptions(),
) -> Iterator[Batch]:
    """Yields this host's slices of the global batches from step `start_step` up to, but excluding, `end_step`.

    An example that cannot be read is replaced by the next readable example, see `next_index`.

    Args:
      source: the examples.
      host: `Host` that converts an example to arrays.
      batch_size: global batch size.
      seed: seed of order and augmentation.
      start_step: first step.
      end_step: step after the last step.
      repeats: number of consecutive copies of each example, see `shuffled_index`.
      balance: class-balanced order of the examples, see `shuffled_index`.
      groups: groups of examples whose arrays have equal shapes, see `shuffled_index`.
      reading: options that do not change the batches.

    Yields:
      The arrays of `host.train_example`, `[B / hosts, ...]`, and `unreadable` `[B / hosts]` int64: the index of
      the unreadable example that was replaced, or `READABLE`.

    Raises:
      UserError: too many examples in a row cannot be read.
      RunFailedError: a reader process died, or no batch arrived for `stall_seconds`.
    """
    local = reading.host.slice(batch_size)

    def example(flat: int) -> Batch:
        step, row = divmod(flat, len(local))
        position = (start_step + step) * batch_size + local[row]
        first = shuffled_index(position, len(source), batch_size, seed, repeats, balance, groups)
        index, arrays = _next_readable(source, host, first, seed, position, groups)
        return arrays | {"unreadable": np.int64(READABLE if index == first else first)}

    return _read((end_step - start_step) * len(local), example, len(local), reading)


def eval_batches(
    source: Source,
    host: EvalHost,
    *,
    batch_size: int,
    groups: Sequence[Sequence[int]] | None = None,
    reading: ReadOptions = ReadOptions(),
) -> Iterator[Batch]:
    """Yields this host's slices of global batches that together contain every example exactly once.

    The last batch of each group is padded; `mask` is 1 for an example and 0 for padding.

    Args:
      source: the examples.
      host: `EvalHost` that converts an example to arrays.
      batch_size: global batch size.
      groups: for each group, indices of examples whose arrays have equal shapes, see `EvalHost.groups`. A batch
        contains examples of one group. By default, there is one group.
      reading: options that do not change the batches.

    Yields:
      The arrays of `host.eval_example`, `[B / hosts, ...]`, and `mask` `[B / hosts]` float32.

    Raises:
      UserError: an image cannot be read, or its shape is not that of its group; the message names the image.
      RunFailedError: a reader process died, or no batch arrived for `stall_seconds`.
    """
    local = reading.host.slice(batch_size)
    order = _whole_batches([range(len(source))] if groups is None else groups, batch_size)  # [batches, batch_size]
    padding: dict[int, Batch] = {}  # by the index of the first example of a batch

    def read(index: int) -> Batch:
        try:
            return host.eval_example(source[index])
        except UnreadableImageError as error:
            raise UserError(f"cannot read image {source.name(index)} ({error}): repair or remove it") from error

    def example(flat: int) -> Batch:
        batch, row = divmod(flat, len(local))
        first, index = order[batch, 0], order[batch, local[row]]
        if index >= 0:
            return read(int(index)) | {"mask": np.float32(1)}
        if first not in padding:
            padding[first] = {name: np.zeros_like(value) for name, value in read(int(first)).items()}
        return padding[first] | {"mask": np.float32(0)}

    def named(flat: int) -> str:
        batch, row = divmod(flat, len(local))
        return source.name(int(order[batch, local[row]]))

    return _read(order.shape[0] * len(local), example, len(local), reading, named)


def _whole_batches(groups: Sequence[Sequence[int]], batch_size: int) -> np.ndarray:
    """Returns the indices of the examples of each global batch, `[batches, batch_size]` int64, and -1 for padding."""
    order = [np.empty(0, np.int64)]
    for group in groups:
        order += [np.asarray(group, np.int64), np.full(-len(group) % batch_size, -1)]
    return np.concatenate(order).reshape(-1, batch_size)


def _next_readable(
    source: Source, host: Host, first: int, seed: int, position: int, groups: Groups | None
) -> tuple[int, Batch]:
    """Returns the index and the arrays of the example with index `first`, or of the next readable example."""
    index = first
    for _ in range(TRIED):
        try:
            return index, host.train_example(source[index], generator_at(seed, position))
        except UnreadableImageError:
            index = next_index(index, len(source), groups)
    raise UserError(
        f"cannot read image {source.name(first)} ({why_unreadable(source, host, first)}) or the {TRIED - 1} images "
        "after it: check the data"
    )


def _read(
    count: int,
    example: Callable[[int], Batch],
    batch_size: int,
    reading: ReadOptions,
    named: Callable[[int], str] = str,
) -> Iterator[Batch]:
    threads = reading.threads

    def batch(index: int) -> Batch:
        first = example(index * batch_size)
        # Each example is copied into the batch immediately: the next example then reuses its memory in the CPU's cache.
        arrays = {name: np.empty((batch_size, *np.shape(value)), value.dtype) for name, value in first.items()}

        def fill(rows: Iterable[int]) -> None:
            for row in rows:
                values = example(index * batch_size + row) if row else first
                for name, value in values.items():
                    if np.shape(value) != arrays[name].shape[1:]:
                        raise UserError(
                            f"{named(index * batch_size + row)} has {name} of the shape {list(np.shape(value))} in a "
                            f"batch of the shape {list(arrays[name].shape[1:])}, because its file states a wrong size: "
                            "save the image again"
                        )
                    arrays[name][row] = value

        if threads:
            deque(_pool(threads).map(fill, [range(part, batch_size, threads) for part in range(threads)]))
        else:
            fill(range(batch_size))
        return arrays

    # Grain distributes whole batches, so the number of threads and processes does not change the order of examples.
    batches = grain.MapDataset.range(count // batch_size).map(batch)
    options = grain.ReadOptions(num_threads=2 if threads else 0, prefetch_buffer_size=_BATCHES_AHEAD)
    ahead = batches.to_iter_dataset(options)
    if reading.workers:
        if not flags.FLAGS.is_parsed():  # Grain's processes read its options from absl flags
            flags.FLAGS.mark_as_parsed()
        without_false_alarms()
        options = grain.MultiprocessingOptions(reading.workers, per_worker_buffer_size=_BATCHES_AHEAD)
        ahead = ahead.mp_prefetch(options, worker_init_fn=end_with_parent)
    return prefetched(
        iter(ahead), in_processes=reading.workers > 0, stall_seconds=reading.stall_seconds, stopped=reading.stopped
    )


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Returns the threads that decode and augment in this process, which all streams share."""
    return ThreadPoolExecutor(threads, thread_name_prefix="image")
