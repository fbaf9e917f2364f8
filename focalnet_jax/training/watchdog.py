"""Ends a run that stands still, and says where: an exchange that never ends looks like a long step from outside."""

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
    """Once it is watching, ends the process with the stacks of all threads where nothing was done for some seconds.

    The first step is not watched: how long compiling takes nobody knows.
    """

    def __init__(self, seconds: float):
        self._seconds = seconds
        self._done = "nothing"
        self._at: float | None = None
        self._closed = threading.Event()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def did(self, what: str) -> None:
        """Something was done; from the first call on it watches."""
        self._done, self._at = what, time.monotonic()

    def each(self, things: Iterable[T], what: str) -> Iterator[T]:
        """The things, each of which counts as something done."""
        for thing in things:
            yield thing
            self.did(what)

    def close(self) -> None:
        """Watches no more."""
        self._closed.set()

    def _watch(self) -> None:
        while not self._closed.wait(min(1.0, self._seconds / 4)):
            if self._at is not None and time.monotonic() - self._at > self._seconds:
                with contextlib.suppress(OSError):
                    print(
                        f"failed: nothing was done for {self._seconds:.0f} s after {self._done} "
                        "(health.watchdog_seconds); the same command goes on from the last checkpoint. All threads:",
                        file=sys.stderr,
                        flush=True,
                    )
                    faulthandler.dump_traceback(sys.stderr, all_threads=True)
                os._exit(EXIT_FAILED)
