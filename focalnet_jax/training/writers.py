"""Where a run's figures go: stdout, metrics.jsonl, TensorBoard."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter

from focalnet_jax.data.loader import Batch


class MetricsWriter:
    """Appends to `metrics.jsonl` and TensorBoard events in a workdir.

    A run that goes on from step n drops the lines after n that a stopped run had written, so that steps in the file
    strictly increase, and tells TensorBoard to do the same.
    """

    def __init__(self, workdir: Path, step: int):
        path = workdir / "metrics.jsonl"
        kept = _lines_up_to(path, step) if path.exists() else []
        replacement = path.with_suffix(".tmp")
        replacement.write_text("".join(kept))
        replacement.replace(path)
        self._file = path.open("a")
        self._tensorboard = SummaryWriter(str(workdir / "tensorboard"), purge_step=step + 1)

    def write(self, step: int, values: dict[str, Any]) -> None:
        """One line `{"step": step, **values}`, floats in full precision."""
        self._file.write(to_json({"step": step, **values}) + "\n")
        self._file.flush()
        for name, value in values.items():
            if value is not None and math.isfinite(value):
                self._tensorboard.add_scalar(name, value, step)

    def close(self) -> None:
        """Writes out what is buffered."""
        self._file.close()
        self._tensorboard.close()


class NoWriter:
    """What processes that do not write have in its place."""

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


def was_evaluated(workdir: Path, step: int) -> bool:
    """Whether `metrics.jsonl` has the evaluation of a step; a signal may have cut it short."""
    path = workdir / "metrics.jsonl"
    lines = _lines_up_to(path, step) if path.exists() else []
    return any("eval/top1" in row and row["step"] == step for row in map(json.loads, lines))


def _lines_up_to(path: Path, step: int) -> list[str]:
    kept = []
    for line in path.read_text(errors="replace").splitlines(keepends=True):
        try:
            if json.loads(line)["step"] <= step and line.endswith("\n"):
                kept.append(line)
        except (ValueError, TypeError, KeyError):  # cut off by a kill, or not ours
            continue
    return kept


def to_json(values: dict[str, Any]) -> str:
    """One line of JSON, in which what is not a finite number is null, as the standard has no other way."""
    finite = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in values.items()
    }
    return json.dumps(finite)


_WORTH_SAYING = 0.02  # share of the time waited for input


class Progress:
    """What a run prints: step, epoch, loss, learning rate, images/s and the time to go."""

    def __init__(self, start: int, total: int, steps_per_epoch: int, batch_size: int):
        self._total, self._steps_per_epoch, self._batch_size = total, steps_per_epoch, batch_size
        self._begun = time.perf_counter()
        self._first = self._marked_step = start
        self._marked_time = self._begun  # moves forward over pauses, so that they do not count
        self._waited = 0.0

    def first_step_done(self) -> None:
        """Starts the clock after the first step, most of which was compilation."""
        now = time.perf_counter()
        print(f"first step, compilation included, took {clock(now - self._begun)}", flush=True)
        self._marked_step, self._marked_time, self._waited = self._first + 1, now, 0.0

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time that does not count as training."""
        begun = time.perf_counter()
        yield
        self._marked_time += time.perf_counter() - begun

    def timed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The batches; what is waited for them counts."""
        while True:
            begun = time.perf_counter()
            batch = next(batches, None)
            self._waited += time.perf_counter() - begun
            if batch is None:
                return
            yield batch

    def rates(self, step: int) -> dict[str, float | None]:
        """Since the last call, `None` before a second step is done.

        `images_per_second`, and `input_wait`, the share of the time in which there was no batch to compute with.
        """
        now = time.perf_counter()
        steps, seconds = step - self._marked_step, now - self._marked_time
        if steps < 1:
            return {"images_per_second": None, "input_wait": None}
        waited = self._waited
        self._marked_step, self._marked_time, self._waited = step, now, 0.0
        return {"images_per_second": steps * self._batch_size / seconds, "input_wait": waited / seconds}

    def print_step(self, step: int, values: dict[str, Any]) -> None:
        """One line for a logged step."""
        rate = values["images_per_second"]
        waited = values["input_wait"] or 0
        wait = f", {waited:.0%} of the time waiting for input" if waited > _WORTH_SAYING else ""
        left = clock((self._total - step) * self._batch_size / rate) if rate else "?"
        print(
            f"step {step:>{len(str(self._total))}}/{self._total}  epoch {step / self._steps_per_epoch:.2f}  "
            f"loss {values['train/loss']:.4f}  lr {values['train/learning_rate']:.2e}  "
            f"grad {values['train/grad_norm']:.2f}  {f'{rate:.0f}' if rate else '?'} images/s{wait}  eta {left}",
            flush=True,
        )

    def print_evaluation(self, step: int, values: dict[str, Any]) -> None:
        """One line for an evaluation."""
        print(
            f"evaluation at step {step}: top-1 {values['eval/top1']:.2f} %  top-5 {values['eval/top5']:.2f} %  "
            f"loss {values['eval/loss']:.4f}  on {values['eval/examples']} examples",
            flush=True,
        )


def clock(seconds: float) -> str:
    """`1:02:03` for a number of seconds."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
