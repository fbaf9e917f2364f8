"""Traces some steps of a run for TensorBoard's profiler, XProf or Perfetto."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from focalnet_jax.errors import UserError

FOLDER = "profile"


def check_steps(steps: Sequence[int], total: int, first: int = 0) -> None:
    """Raises `UserError` if no step to trace is among the steps of the run, `first` + 1 to `total`."""
    if steps and steps[0] > total:
        raise UserError(f"profile_steps={tuple(steps)}: the last step of the run is {total}; give earlier steps")
    if steps and steps[1] <= first:
        raise UserError(
            f"profile_steps={tuple(steps)}: the first step of the run is {first + 1} (continue_from); give later steps"
        )


class Profile:
    """Writes a profiler trace of some steps to the workdir of a run.

    A run that is resumed between the first and the last step traces the remaining steps.

    Args:
      steps: first and last step to trace, counted from 1; empty for no trace.
      workdir: workdir of the run.

    Raises:
      UserError: the folder cannot be created.
    """

    def __init__(self, steps: Sequence[int], workdir: Path):
        self._first, self._last = steps or (0, -1)
        self._folder = workdir / FOLDER
        self._running = False
        if steps:
            try:
                self._folder.mkdir(exist_ok=True)
            except OSError as error:
                raise UserError(
                    f"cannot create {self._folder}: {error.strerror}; repair it or choose another --workdir"
                ) from error

    def begin(self, step: int, before: Any) -> None:
        """Starts the trace if `step` is the first step to trace. Call before each step.

        Waits for `before`, an output of the previous step, so that the trace excludes the previous step.
        """
        if self._first <= step <= self._last and not self._running:
            jax.block_until_ready(before)
            jax.profiler.start_trace(self._folder)
            self._running = True

    def ends(self, step: int) -> bool:
        """Returns whether a trace is running and `step` is its last step."""
        return self._running and step == self._last

    def close(self) -> None:
        """Ends and writes the trace, if one is running."""
        if self._running:
            jax.profiler.stop_trace()
            self._running = False
            print(f"wrote the profile to {self._folder}", flush=True)
