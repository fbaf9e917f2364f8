"""What the devices do in a few chosen steps, for TensorBoard's profiler, XProf or Perfetto."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

FOLDER = "profile"


class Profile:
    """A trace of the steps `first` to `last`, both included, in a run's workdir; of none if no steps are given."""

    def __init__(self, steps: Sequence[int], workdir: Path):
        self._first, self._last = steps or (0, 0)
        self._folder = workdir / FOLDER
        self._running = False

    def begin(self, step: int, before: Any) -> None:
        """To be called before a step, with something the step before it computed."""
        if step == self._first:
            jax.block_until_ready(before)
            jax.profiler.start_trace(self._folder)
            self._running = True

    def end(self, step: int, after: Any) -> None:
        """To be called after a step, with something it computes."""
        if self._running and step == self._last:
            jax.block_until_ready(after)
            self.close()
            print(f"profile of steps {self._first} to {self._last} in {self._folder}", flush=True)

    def close(self) -> None:
        """Ends a trace that is being taken."""
        if self._running:
            jax.profiler.stop_trace()
            self._running = False
