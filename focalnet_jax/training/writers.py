"""Where a run's figures go: metrics.jsonl, TensorBoard, and Weights & Biases or MLflow where asked for."""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import threading
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tensorboardX

from focalnet_jax.errors import RunFailedError, UserError, suggest
from focalnet_jax.system.files import write_whole

METRICS = "metrics.jsonl"
IN_A_ROW = "train/skipped_in_a_row"


class MetricsWriter:
    """Appends to `metrics.jsonl` in a workdir, and to what else is named.

    A run that goes on from step n drops the lines after n that a stopped run had written, so that each step is in the
    file once, an evaluation in a line after it, and tells TensorBoard to do the same.

    Args:
      workdir: of the run.
      step: it goes on from.
      names: of `WRITERS`; see `check_writers`.
      config: of the run, for those that show it.
    """

    def __init__(self, workdir: Path, step: int, names: Sequence[str] = (), config: Mapping[str, Any] | None = None):
        path = workdir / METRICS
        try:
            kept = _lines_up_to(path, step) if path.exists() else []
            write_whole(path, "".join(kept))
            self._file = path.open("a")
            self._others = [WRITERS[name](workdir, step, dict(config or {})) for name in names]
        except OSError as error:
            place = error.filename or workdir
            raise UserError(f"cannot write {place}: {error.strerror}; mend it or choose another --workdir") from error

    def write(self, step: int, values: dict[str, Any]) -> None:
        """One line `{"step": step, **values}`, floats in full precision."""
        self._file.write(to_json({"step": step, **values}) + "\n")
        self._file.flush()
        finite = {name: value for name, value in values.items() if value is not None and math.isfinite(value)}
        for other in self._others:
            other.write(step, finite)

    def draw(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        """Shows pictures `[H, W, 3]` uint8 by name, where there is something that shows them."""
        for other in self._others:
            if isinstance(other, _TensorBoard):
                other.draw(step, pictures)

    def close(self) -> None:
        """Writes out what is buffered."""
        self._file.close()
        for other in self._others:
            other.close()


class Writer(Protocol):
    """Where figures go, finite ones."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Takes the figures of a step."""

    def close(self) -> None:
        """Writes out what is buffered."""


class _TensorBoard:
    def __init__(self, workdir: Path, step: int, config: dict[str, Any]):
        del config
        self._folder = workdir / "tensorboard"
        before = set(threading.enumerate())
        self._events = tensorboardX.SummaryWriter(str(self._folder), purge_step=step + 1)
        self._threads = set(threading.enumerate()) - before

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._check_writing()
        for name, value in values.items():
            self._events.add_scalar(name, value, step)

    def draw(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        self._check_writing()
        for name, picture in pictures.items():
            self._events.add_image(name, picture, step, dataformats="HWC")

    def close(self) -> None:
        if all(thread.is_alive() for thread in self._threads):  # or it would wait for one for ever
            self._events.close()

    def _check_writing(self) -> None:
        # Its thread ends without a word where a disk is full, and then whoever writes more waits for ever.
        if not all(thread.is_alive() for thread in self._threads):
            raise RunFailedError(f"TensorBoard's events can no more be written to {self._folder}: is the disk full?")


class _WandB:
    """Weights & Biases; its environment variables say where, and a run that goes on is the same one there."""

    def __init__(self, workdir: Path, step: int, config: dict[str, Any]):
        del step
        wandb = importlib.import_module("wandb")
        told = workdir / "wandb_id.txt"
        name = told.read_text().strip() if told.exists() else uuid.uuid4().hex[:8]
        told.write_text(name + "\n")
        self._run = wandb.init(dir=str(workdir), name=workdir.name, id=name, resume="allow", config=config)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


class _MLflow:
    """MLflow; its environment variables say where, and a run that goes on is the same one there."""

    def __init__(self, workdir: Path, step: int, config: dict[str, Any]):
        del step
        self._mlflow = importlib.import_module("mlflow")
        told = workdir / "mlflow_id.txt"
        known = told.read_text().strip() if told.exists() else None
        run = self._mlflow.start_run(run_id=known, run_name=None if known else workdir.name)
        told.write_text(run.info.run_id + "\n")
        if not known:
            self._mlflow.log_dict(config, "config.json")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._mlflow.log_metrics(dict(values), step=step)

    def close(self) -> None:
        self._mlflow.end_run()


WRITERS = {"tensorboard": _TensorBoard, "wandb": _WandB, "mlflow": _MLflow}


def check_writers(names: Sequence[str]) -> None:
    """Refuses writers that are not known or not installed: `UserError`."""
    for name in names:
        if name not in WRITERS:
            raise UserError(f"writers: {name!r} is unknown; expected {', '.join(WRITERS)}.{suggest(name, WRITERS)}")
        found = importlib.util.find_spec(name) if name != "tensorboard" else tensorboardX.__spec__
        if found is None or found.origin is None:  # a folder of that name is no package
            raise UserError(f"writers: {name} is not installed: pip install {name}, or leave it out")


class NoWriter:
    """What processes that do not write have in its place."""

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Nothing."""

    def draw(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


def was_evaluated(workdir: Path, step: int, name: str) -> bool:
    """Returns whether `metrics.jsonl` has an evaluation of a step by its name; a signal may have cut it short."""
    path = workdir / METRICS
    try:
        lines = _lines_up_to(path, step) if path.exists() else []
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; mend it or choose another --workdir") from error
    rows = (row for row in map(json.loads, lines) if row["step"] == step)
    return any(key.startswith(f"{name}/") for row in rows for key in row)


def _lines_up_to(path: Path, step: int) -> list[str]:
    kept = []
    for line in path.read_text(errors="replace").splitlines(keepends=True):
        try:
            if json.loads(line)["step"] <= step and line.endswith("\n"):
                kept.append(line)
        except (ValueError, TypeError, KeyError, RecursionError):  # cut off by a kill, or not ours
            continue
    return kept


def to_json(values: dict[str, Any]) -> str:
    """One line of JSON, in which what is not a finite number is null, as the standard has no other way."""
    finite = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in values.items()
    }
    return json.dumps(finite)
