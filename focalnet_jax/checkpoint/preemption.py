"""Stopping a run by a signal without losing what it computed."""

from __future__ import annotations

import signal
import sys
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """While entered, the first SIGTERM or SIGINT sets `received`; a second one ends the process as usual."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None

    def __enter__(self) -> StopRequest:
        self._previous = {number: signal.signal(number, self._on_signal) for number in SIGNALS}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        for known in SIGNALS:
            signal.signal(known, self._previous[known])
        print(f"{self.received.name}: finishing this step, then saving; again to stop at once", file=sys.stderr)
