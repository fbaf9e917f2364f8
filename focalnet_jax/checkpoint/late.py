"""Passes the evaluation of a step to the thread that is writing the step."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any


class LateEvaluation:
    """The metrics of a step that arrive while the step is being written.

    The thread that writes the step takes the metrics when the step is complete, and adds them to it.
    """

    def __init__(self):
        self._lock = threading.Lock()
        self._accepts = False
        self._metrics: Mapping[str, Any] | None = None

    def open(self) -> None:
        """Accepts metrics from now on. Called when a save starts."""
        self._accepts = True

    def close(self) -> None:
        """Discards stored metrics and accepts no more. Called when a save fails, so that no other step gets them."""
        with self._lock:
            self._accepts, self._metrics = False, None

    def offer(self, metrics: Mapping[str, Any]) -> bool:
        """Stores metrics for the thread that writes the step; returns whether they are accepted."""
        with self._lock:
            if self._accepts:
                self._metrics = metrics
            return self._accepts

    def take(self) -> Mapping[str, Any] | None:
        """Returns the stored metrics and removes them. If there are none, returns None and accepts no more."""
        with self._lock:
            metrics, self._metrics = self._metrics, None
            self._accepts = metrics is not None
            return metrics
