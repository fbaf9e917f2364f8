"""Batches in an order that is a pure function of seed and step.

Position p of the global stream (p = step * batch_size + place in the batch) decides alone which example stands there
and with which random numbers it is augmented. A run resumes from its step, and hosts take contiguous slices of every
global batch, so the stream does not depend on where or in how many parts it is read.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, Protocol

import grain
import numpy as np
from absl import flags
from grain.experimental import index_shuffle

from focalnet_jax.data.balance import Balance
from focalnet_jax.data.decode import UnreadableImageError
from focalnet_jax.data.sources import Source
from focalnet_jax.data.substitutions import READABLE, Batch, EvalHost, why_unreadable
from focalnet_jax.errors import LEFT_BEHIND, RunFailedError, UserError
from focalnet_jax.system.children import end_all, end_with_parent, without_false_alarms

_BATCHES_AHEAD = 2
_LISTEN_SECONDS = 0.2  # how often who waits for a batch asks whether to stop
_PATIENCE_SECONDS = 5.0  # for a batch nobody will use
_SUBSTITUTES = 10  # pictures tried for one that cannot be read


class Host(EvalHost, Protocol):
    """Makes arrays of examples, see `tasks.task.Host`."""

    def train_example(self, example: Any, rng: np.random.Generator) -> Batch:
        """Returns arrays of fixed shapes by name; raises `UnreadableImageError`."""


class Places(Protocol):
    """Which part of every global batch this process reads."""

    def slice(self, batch_size: int) -> Sequence[int]:
        """Places in the global batch, ascending."""


@dataclass(frozen=True)
class HostPlaces:
    """Equal parts, by the number of the host."""

    index: int = 0
    count: int = 1

    def slice(self, batch_size: int) -> range:
        """Places in the global batch, contiguous."""
        size = batch_size // self.count
        return range(self.index * size, (self.index + 1) * size)


@dataclass(frozen=True)
class ReadOptions:
    """How a stream is read; what is in it does not depend on it."""

    threads: int = 16  # that decode and augment, in every process
    workers: int = 0  # processes beside this one; 0: the threads are this one's
    stall_seconds: float = 300.0  # without a batch for so long, the run ends
    host: Places = HostPlaces()
    stopped: Callable[[], bool] = bool  # where it is true, a stream that has no batch ready ends before its time


def steps_per_epoch(examples: int, batch_size: int) -> int:
    """Whole batches in one pass; the rest of a shuffled pass is left out, as the recipes do."""
    if batch_size > examples:
        raise UserError(
            f"batch_size={batch_size} is larger than the {examples} training examples: "
            f"set --config.batch_size={examples} or less"
        )
    return examples // batch_size


def shuffled_index(
    position: int, examples: int, batch_size: int, seed: int, repeats: int = 1, balance: Balance | None = None
) -> int:
    """The example at `position` of the training stream: a new permutation every epoch, with `balance` of its places.

    With `repeats` every example stands there so many times in a row and an epoch sees a part of them, as in repeated
    augmentation (arXiv 1901.09335).
    """
    epoch, place = divmod(position, steps_per_epoch(examples, batch_size) * batch_size)
    index = index_shuffle(place // repeats, max_index=examples - 1, seed=_epoch_seed(seed, epoch), rounds=4)
    return index if balance is None else balance.example(index, epoch, seed)


class _Generators(threading.local):
    """A generator a thread: to make one takes longer than all an example draws from it."""

    def __init__(self):
        self.bits = np.random.Philox(0)
        self.generator = np.random.Generator(self.bits)


_generators = _Generators()


def _generator(seed: int, position: int) -> np.random.Generator:
    """This thread's generator, at the beginning of the stream of random numbers that a position has."""
    state = _generators.bits.state
    state["state"]["key"][:] = seed, position
    state["state"]["counter"][:] = 0
    state |= {"buffer_pos": 4, "has_uint32": 0, "uinteger": 0}  # nothing drawn before is left over
    _generators.bits.state = state
    return _generators.generator


@lru_cache(maxsize=8)
def _epoch_seed(seed: int, epoch: int) -> int:
    return int(np.random.SeedSequence((seed, epoch)).generate_state(1)[0])


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
    reading: ReadOptions = ReadOptions(),
) -> Iterator[Batch]:
    """This host's slices of the global batches of steps `start_step` to `end_step`.

    An example that cannot be read is replaced by the next one that can, by index.

    Yields:
      The arrays of `host.train_example`, `[B / hosts, ...]`, and `unreadable` `[B / hosts]` int64: the index of the
      example that could not be read, or `READABLE`.

    Raises:
      UserError: too many examples in a row cannot be read.
      RunFailedError: a reading process died, or no batch came for `stall_seconds`.
    """
    local = reading.host.slice(batch_size)

    def example(flat: int) -> Batch:
        step, place = divmod(flat, len(local))
        position = (start_step + step) * batch_size + local[place]
        first = shuffled_index(position, len(source), batch_size, seed, repeats, balance)
        index, arrays = _next_readable(source, host, first, seed, position)
        return arrays | {"unreadable": np.int64(READABLE if index == first else first)}

    return _read((end_step - start_step) * len(local), example, len(local), reading)


def eval_batches(
    source: Source, host: EvalHost, *, batch_size: int, reading: ReadOptions = ReadOptions()
) -> Iterator[Batch]:
    """This host's slices of batches that hold every example exactly once.

    The last batch is padded; `mask` is 1 for an example and 0 for padding, which must not be counted.

    Yields:
      The arrays of `host.eval_example`, `[B / hosts, ...]`, and `mask` `[B / hosts]` float32.

    Raises:
      UserError: a picture cannot be read; names it.
      RunFailedError: as for `train_batches`.
    """
    local = reading.host.slice(batch_size)
    batches = -(-len(source) // batch_size)
    padding: list[Batch] = []

    def read(index: int) -> Batch:
        try:
            return host.eval_example(source[index])
        except UnreadableImageError as error:
            raise UserError(f"cannot read image {source.name(index)} ({error}): repair or remove it") from error

    def example(flat: int) -> Batch:
        batch, place = divmod(flat, len(local))
        index = batch * batch_size + local[place]
        if index < len(source):
            return read(index) | {"mask": np.float32(1)}
        if not padding:
            padding.append({name: np.zeros_like(value) for name, value in read(0).items()})
        return padding[0] | {"mask": np.float32(0)}

    return _read(batches * len(local), example, len(local), reading)


def _next_readable(source: Source, host: Host, first: int, seed: int, position: int) -> tuple[int, Batch]:
    """The index and the arrays of the example at `first`, or of the next one by index that can be read."""
    for attempt in range(_SUBSTITUTES):
        index = (first + attempt) % len(source)
        try:
            return index, host.train_example(source[index], _generator(seed, position))
        except UnreadableImageError:
            continue
    raise UserError(
        f"cannot read image {source.name(first)} ({why_unreadable(source, host, first)}), nor the {_SUBSTITUTES - 1} "
        "after it: check the data"
    )


def _read(count: int, example: Callable[[int], Batch], batch_size: int, reading: ReadOptions) -> Iterator[Batch]:
    threads = reading.threads

    def batch(index: int) -> Batch:
        first = example(index * batch_size)
        # Every example is copied to its place at once: its own memory is in the cache for the next one then.
        arrays = {name: np.empty((batch_size, *np.shape(value)), value.dtype) for name, value in first.items()}

        def fill(places: Iterable[int]) -> None:
            for place in places:
                row = example(index * batch_size + place) if place else first
                for name, value in row.items():
                    arrays[name][place] = value

        if threads:
            deque(_pool(threads).map(fill, [range(part, batch_size, threads) for part in range(threads)]))
        else:
            fill(range(batch_size))
        return arrays

    # Whole batches are what threads and processes take from Grain, so their number does not change the order.
    batches = grain.MapDataset.range(count // batch_size).map(batch)
    options = grain.ReadOptions(num_threads=2 if threads else 0, prefetch_buffer_size=_BATCHES_AHEAD)
    ahead = batches.to_iter_dataset(options)
    if reading.workers:
        if not flags.FLAGS.is_parsed():  # Grain's processes take its options from there
            flags.FLAGS.mark_as_parsed()
        without_false_alarms()
        options = grain.MultiprocessingOptions(reading.workers, per_worker_buffer_size=_BATCHES_AHEAD)
        ahead = ahead.mp_prefetch(options, worker_init_fn=end_with_parent)
    return _watched(iter(ahead), reading)


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """The threads of this process that decode and augment, shared by all it reads."""
    return ThreadPoolExecutor(threads, thread_name_prefix="image")


def _watched(batches: grain.DatasetIterator, reading: ReadOptions) -> Iterator[Batch]:
    """The batches, the next one prepared while one is used; ends the run where none comes."""

    def take() -> Batch | None:
        batch = next(batches, None)
        if batch is None or not reading.workers:
            return batch
        return {name: np.array(value) for name, value in batch.items()}  # so that memory shared with a process is freed

    ahead = ThreadPoolExecutor(1, thread_name_prefix="next batch")
    pending = ahead.submit(take)
    stalled = False
    try:
        while (batch := _result(pending, reading)) is not None:
            pending = ahead.submit(take)
            yield batch
        stalled = not pending.done()
    except RunFailedError:
        stalled = True
        raise
    finally:
        # What still reads cannot be closed: it is left to the end of the program.
        idle = pending.cancel() or pending in wait([pending], 0 if stalled else _PATIENCE_SECONDS).done
        ahead.shutdown(wait=False)
        if idle:
            batches.close()
        else:
            LEFT_BEHIND.append("a batch")
            end_all()


def _result(pending: Future[Batch | None], reading: ReadOptions) -> Batch | None:
    deadline = time.monotonic() + reading.stall_seconds
    while not wait([pending], timeout=min(_LISTEN_SECONDS, reading.stall_seconds)).done:
        if reading.stopped():
            return None
        if time.monotonic() > deadline:
            raise RunFailedError(
                f"no batch came for {reading.stall_seconds:.0f} s: a process that reads, or the storage, stands still "
                "(data.stall_seconds)"
            )
    try:
        return pending.result()
    except RuntimeError as error:
        if not reading.workers:
            raise
        # Grain's word for it.
        raise RunFailedError(f"a process that reads the data died: {error}") from error
