"""What the devices do in a few chosen steps, for TensorBoard's profiler, XProf or Perfetto."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from focalnet_jax.errors import UserError

FOLDER = "profile"


def check_steps(steps: Sequence[int], total: int) -> None:
    """Refuses steps that come after the last of the run: `UserError`."""
    if steps and steps[0] > total:
        raise UserError(f"profile_steps={tuple(steps)}: the run ends with step {total}")


class Profile:
    """A trace of the steps `first` to `last`, both included, in a run's workdir; of none if no steps are given.

    A run that goes on between the two traces the rest.

    Raises:
      UserError: the folder cannot be made.
    """

    def __init__(self, steps: Sequence[int], workdir: Path):
        self._first, self._last = steps or (0, -1)
        self._folder = workdir / FOLDER
        self._running = False
        if steps:
            try:
                self._folder.mkdir(exist_ok=True)
            except OSError as error:
                raise UserError(f"cannot make {self._folder}: {error.strerror}; remove what is there") from error

    def begin(self, step: int, before: Any) -> None:
        """To be called before a step, with something the step before it computed."""
        if self._first <= step <= self._last and not self._running:
            jax.block_until_ready(before)
            jax.profiler.start_trace(self._folder)
            self._running = True

    def ends(self, step: int) -> bool:
        """Whether a step is the last one of a trace that is being taken."""
        return self._running and step == self._last

    def close(self) -> None:
        """Writes a trace that is being taken."""
        if self._running:
            jax.profiler.stop_trace()
            self._running = False
            print(f"profile in {self._folder}", flush=True)
