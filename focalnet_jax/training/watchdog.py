"""Ends a run that hangs, after printing the stacks of its threads."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from focalnet_jax.errors import EXIT_FAILED

T = TypeVar("T")


class Watchdog:
    """Prints the stacks of all threads and ends the process if no progress is reported for `seconds`.

    The time before the first report is not limited, because the first compilation may take long.
    """

    def __init__(self, seconds: float):
        self._seconds = seconds
        self._done = "nothing"
        self._at: float | None = None
        self._closed = threading.Event()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def did(self, what: str) -> None:
        """Reports progress. The message about a hang names `what`, the last reported progress."""
        self._done, self._at = what, time.monotonic()

    def each(self, things: Iterable[T], what: str) -> Iterator[T]:
        """Yields the elements of `things`, and reports progress after each of them."""
        for thing in things:
            yield thing
            self.did(what)

    def close(self) -> None:
        """Stops watching."""
        self._closed.set()

    def _watch(self) -> None:
        while not self._closed.wait(min(1.0, self._seconds / 4)):
            if self._at is not None and time.monotonic() - self._at > self._seconds:
                with contextlib.suppress(OSError):
                    print(
                        f"failed: no progress for {self._seconds:.0f} s after {self._done} "
                        "(health.watchdog_seconds); the same command resumes from the last checkpoint. All threads:",
                        file=sys.stderr,
                        flush=True,
                    )
                    faulthandler.dump_traceback(sys.stderr, all_threads=True)
                os._exit(EXIT_FAILED)
