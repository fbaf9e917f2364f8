"""Running a function over many things in several processes, with progress."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from focalnet_jax.data.processes import without_false_alarms
from focalnet_jax.errors import RunFailedError

_EVERY_SECONDS = 5.0


def run_all(
    function: Callable[..., Any],
    arguments: Iterable[tuple[Any, ...]],
    processes: int,
    report: Callable[[int, Any], None],
) -> None:
    """Calls `function` with each of `arguments`, in `processes` processes; `report(done, result)` as they end.

    Raises:
      RunFailedError: a process died.
      Exception: what a call raised, the others given up: no process of them is left to write anything.
    """
    without_false_alarms()
    before = set(multiprocessing.active_children())
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_begin, initargs=(os.getpid(),))
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
        raise RunFailedError("a process that prepares data died; the same command goes on where it stopped") from error
    pool.shutdown()  # a process of multiprocessing that ended meanwhile would wait for those it never told to


def _begin(parent: int) -> None:
    """Makes a process end with the one that started it, however that ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to handle

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class Progress:
    """A line every few seconds: how much is done, how fast, how long still."""

    def __init__(self, what: str, total: int):
        self._what, self._total = what, total
        self._begun = self._said = time.monotonic()
        self._bytes = 0

    def __call__(self, done: int, size: int) -> None:
        """`done` things in all are done now, the last of `size` bytes."""
        self._bytes += size
        now = time.monotonic()
        if now - self._said < _EVERY_SECONDS and done < self._total:
            return
        self._said = now
        seconds = max(now - self._begun, 1e-3)
        left = seconds / done * (self._total - done)
        rate = f", {self._bytes / seconds / 1e6:.0f} MB/s" if self._bytes else ""
        print(f"{self._what} {done}/{self._total}{rate}, {left:.0f} s left", flush=True)
