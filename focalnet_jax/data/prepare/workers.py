"""Distributes calls of a function over several processes, and prints progress."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from focalnet_jax.errors import RunFailedError
from focalnet_jax.system.children import end_with_parent, without_false_alarms

_EVERY_SECONDS = 5.0


def run_all(
    function: Callable[..., Any],
    arguments: Iterable[tuple[Any, ...]],
    processes: int,
    report: Callable[[int, Any], None],
) -> None:
    """Calls `function` with each tuple in `arguments`, in worker processes.

    Args:
      function: the function, which must be picklable.
      arguments: positional arguments of each call.
      processes: number of worker processes.
      report: function called as `report(done, result)` after each call, where `done` is the number of finished calls.

    Raises:
      RunFailedError: a worker process died.
      Exception: the first exception that a call raised. All workers are then terminated.
    """
    without_false_alarms()
    before = set(multiprocessing.active_children())
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_begin)
    try:
        pending = [pool.submit(function, *given) for given in arguments]
        for done, future in enumerate(as_completed(pending), 1):
            report(done, future.result())
    except BaseException as error:
        for process in set(multiprocessing.active_children()) - before:
            process.terminate()
            process.join()
        pool.shutdown(wait=False, cancel_futures=True)
        if not isinstance(error, BrokenProcessPool):
            raise
        raise RunFailedError("a process that prepares data died; the same command resumes the preparation") from error
    pool.shutdown()  # otherwise multiprocessing would wait at exit for workers that received no signal to stop


def _begin() -> None:
    """Initializes a worker process: it ignores Ctrl-C, and ends when its parent process ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles it
    end_with_parent()


class ProgressPrinter:
    """Prints progress, speed and remaining time, one line every few seconds."""

    def __init__(self, label: str, total: int):
        self._label, self._total = label, total
        self._begun = self._printed = time.monotonic()
        self._bytes = 0

    def __call__(self, done: int, size: int) -> None:
        """Records that `done` items in total are finished; the last item has `size` bytes."""
        self._bytes += size
        now = time.monotonic()
        if now - self._printed < _EVERY_SECONDS and done < self._total:
            return
        self._printed = now
        seconds = max(now - self._begun, 1e-3)
        left = seconds / done * (self._total - done)
        rate = f", {self._bytes / seconds / 1e6:.0f} MB/s" if self._bytes else ""
        print(f"{self._label} {done}/{self._total}{rate}, {left:.0f} s left", flush=True)
