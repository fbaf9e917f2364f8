"""How long failed requests to a bucket are repeated: half a minute for a command, ten minutes for a run that trains.

A user waits for a command. A run saves in the background, so it has time, and an outage of the service must not end it.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SECONDS = 600.0  # how long a run repeats a failed request


class _Patience:
    """The seconds for which this process repeats requests, and whether the service answered the last request."""

    def __init__(self):
        self.seconds = 0.0
        self._failing = threading.Event()

    def failed(self, error: Exception) -> None:
        """Warns about the first failure of an outage."""
        if not self._failing.is_set():
            self._failing.set()
            text = " ".join(str(error).split())[:120] or type(error).__name__
            minutes = self.seconds / 60
            _print(f"warning: the bucket does not answer ({text}); requests are repeated for {minutes:.0f} minutes")

    def succeeded(self) -> None:
        """Reports the end of an outage."""
        if self._failing.is_set():
            self._failing.clear()
            _print("the bucket answers again")


PATIENCE = _Patience()


@contextmanager
def patience() -> Iterator[Callable[[], None]]:
    """Context manager that yields a function. Once it is called, failed requests are repeated for `SECONDS`."""

    def begin() -> None:
        PATIENCE.seconds = SECONDS

    try:
        yield begin
    finally:
        PATIENCE.seconds = 0.0


def deadline() -> float:
    """Returns the time, on the clock of `time.monotonic`, until which a request that starts now is repeated."""
    return time.monotonic() + PATIENCE.seconds


def _print(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
