"""Writers of a run's metrics: metrics.jsonl, TensorBoard, Weights & Biases and MLflow."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import math
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tensorboardX

from focalnet_jax.checkpoint.weights import reason
from focalnet_jax.data.drawing import encode_png
from focalnet_jax.errors import RunFailedError, UserError, suggest
from focalnet_jax.storage.address import AnyPath
from focalnet_jax.storage.failures import StorageError, unreadable
from focalnet_jax.storage.files import exists, read_text
from focalnet_jax.system.files import write_whole

METRICS = "metrics.jsonl"
WRITTEN = (METRICS, "wandb_id.txt", "mlflow_id.txt")  # files that a resumed run reads
IN_A_ROW = "train/skipped_in_a_row"


class MetricsWriter:
    """Writes the metrics of a run to `metrics.jsonl` in its workdir, and to the writers in `names`.

    If the run resumes, the metrics of later steps are removed from `metrics.jsonl` and TensorBoard. The file therefore
    has one line per logged step, and one line per evaluation.

    Args:
      workdir: workdir of the run.
      step: step that the run resumes from.
      names: names of other writers, keys of `WRITERS`; see `check_writers`.
      config: config of the run, for writers that display it.
      title: name of the run in other services; by default the name of `workdir`, which for a run in a bucket is a
        temporary folder.

    Raises:
      UserError: a file cannot be written, or a writer cannot be started.
    """

    def __init__(
        self,
        workdir: Path,
        step: int,
        names: Sequence[str] = (),
        config: Mapping[str, Any] | None = None,
        title: str = "",
    ):
        path, self._folder = workdir / METRICS, workdir
        try:
            kept = _lines_up_to(path, step) if path.exists() else []
            write_whole(path, "".join(kept))
            self._file = path.open("a")
            self._others = [WRITERS[name](workdir, step, dict(config or {}), title or workdir.name) for name in names]
        except OSError as error:
            file = error.filename or workdir
            raise UserError(f"cannot write {file}: {error.strerror}; repair it or choose another --workdir") from error

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Writes one line `{"step": step, **values}`, with floats in full precision.

        A value that is None, NaN or infinite is null in the file, and other writers do not receive it. Nor do they
        receive tables, which are lists of rows.
        """
        self._file.write(to_json({"step": step, **values}) + "\n")
        self._file.flush()
        numbers = {name: value for name, value in values.items() if value is not None and not isinstance(value, list)}
        finite = {name: value for name, value in numbers.items() if math.isfinite(value)}
        for other in self._others:
            other.write(step, finite)

    def draw(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        """Writes images `[H, W, 3]` uint8, given by name, to TensorBoard if it is among the writers."""
        for other in self._others:
            if isinstance(other, _TensorBoard):
                other.draw(step, pictures)

    def keep(self, name: str, image: np.ndarray) -> None:
        """Writes an image `[H, W, 3]` uint8 to the PNG file `name` in the workdir, and overwrites an earlier one."""
        write_whole(self._folder / name, encode_png(image))

    def close(self) -> None:
        """Flushes and closes."""
        with contextlib.ExitStack() as stack:
            for other in self._others:
                stack.callback(other.close)
            self._file.close()


class Writer(Protocol):
    """Interface of a metrics logger, such as TensorBoard. It receives only finite scalars."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Writes the metrics of a step."""

    def close(self) -> None:
        """Flushes and closes."""


class _TensorBoard:
    def __init__(self, workdir: Path, step: int, config: dict[str, Any], title: str):
        del config, title
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
        if all(thread.is_alive() for thread in self._threads):  # otherwise close() would wait forever
            self._events.close()

    def _check_writing(self) -> None:
        # tensorboardX's thread ends silently when the disk is full, and the next write would wait forever.
        if not all(thread.is_alive() for thread in self._threads):
            raise RunFailedError(f"TensorBoard's events can no longer be written to {self._folder}: is the disk full?")


class _WandB:
    """Logs metrics to Weights & Biases, which is configured by its environment variables.

    A resumed run continues the same W&B run, whose id is stored in the workdir.
    """

    def __init__(self, workdir: Path, step: int, config: dict[str, Any], title: str):
        del step
        name = _read_id(workdir / "wandb_id.txt") or uuid.uuid4().hex[:8]
        write_whole(workdir / "wandb_id.txt", name + "\n")
        with _in_one_line("wandb", UserError):
            wandb = importlib.import_module("wandb")
            self._run = wandb.init(dir=str(workdir), name=title, id=name, resume="allow", config=config)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        with _in_one_line("wandb", RunFailedError):
            self._run.log(dict(values), step=step)

    def close(self) -> None:
        with _in_one_line("wandb", RunFailedError):
            self._run.finish()


class _MLflow:
    """Logs metrics to MLflow, which is configured by its environment variables.

    A resumed run continues the same MLflow run, whose id is stored in the workdir.
    """

    def __init__(self, workdir: Path, step: int, config: dict[str, Any], title: str):
        del step
        known = _read_id(workdir / "mlflow_id.txt")
        with _in_one_line("mlflow", UserError):
            self._mlflow = importlib.import_module("mlflow")
            run = self._mlflow.start_run(run_id=known, run_name=None if known else title)
        write_whole(workdir / "mlflow_id.txt", run.info.run_id + "\n")
        if not known:
            with _in_one_line("mlflow", UserError):
                self._mlflow.log_dict(config, "config.json")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        with _in_one_line("mlflow", RunFailedError):
            self._mlflow.log_metrics(dict(values), step=step)

    def close(self) -> None:
        with _in_one_line("mlflow", RunFailedError):
            self._mlflow.end_run()


def _read_id(path: Path) -> str | None:
    """Returns the id of the run in a service, or None if the file is missing or empty."""
    return (path.read_text(errors="replace").strip() or None) if path.exists() else None


@contextlib.contextmanager
def _in_one_line(service: str, kind: type[Exception]) -> Iterator[None]:
    """Context manager that raises `kind` with a one-line message for any error of a service's library.

    All exceptions are caught, because the exceptions of these libraries have no type in common.
    """
    try:
        yield
    except Exception as error:
        raise kind(
            f"writers: {service} failed ({reason(error)}); check its settings and {service}_id.txt in the workdir, or "
            f"remove {service} from writers, and start the same command again"
        ) from error


WRITERS = {"tensorboard": _TensorBoard, "wandb": _WandB, "mlflow": _MLflow}


def check_writers(names: Sequence[str]) -> None:
    """Raises `UserError` if a writer is unknown or not installed."""
    for name in names:
        if name not in WRITERS:
            raise UserError(
                f"writers: {name!r} is unknown; expected one of {', '.join(WRITERS)}.{suggest(name, WRITERS)}"
            )
        found = importlib.util.find_spec(name) if name != "tensorboard" else tensorboardX.__spec__
        if found is None or found.origin is None:  # a folder of that name is not a package
            raise UserError(f"writers: {name} is not installed: pip install {name}, or remove it from writers")


class NoWriter:
    """Writes nothing. It is the writer of all processes except the first."""

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Does nothing."""

    def draw(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        """Does nothing."""

    def keep(self, name: str, image: np.ndarray) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""


def was_evaluated(workdir: AnyPath, step: int, name: str) -> bool:
    """Returns whether `metrics.jsonl` has the result of the evaluation `name` at a step.

    The result is missing if a signal cut the evaluation short.
    """
    return any(key.startswith(f"{name}/") for row in _rows_up_to(workdir, step) if row["step"] == step for key in row)


def best_written(workdir: AnyPath, step: int, metric: str) -> float:
    """Returns the highest value of `metric` in `metrics.jsonl` up to a step, or minus infinity if it is missing."""
    values = [row[metric] for row in _rows_up_to(workdir, step) if isinstance(row.get(metric), int | float)]
    return max((value for value in values if not math.isnan(value)), default=-math.inf)


def _rows_up_to(workdir: AnyPath, step: int) -> Iterator[dict[str, Any]]:
    path = workdir / METRICS
    try:
        lines = _lines_up_to(path, step) if exists(path) else []
    except StorageError as error:
        raise unreadable(path, error) from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; repair it or choose another --workdir") from error
    return map(json.loads, lines)


def _lines_up_to(path: AnyPath, step: int) -> list[str]:
    kept = []
    for line in read_text(path).splitlines(keepends=True):
        try:
            if json.loads(line)["step"] <= step and line.endswith("\n"):
                kept.append(line)
        except (ValueError, TypeError, KeyError, RecursionError):  # cut off by a kill, or not written by this package
            continue
    return kept


def to_json(values: dict[str, Any]) -> str:
    """Returns one line of JSON. NaN and infinite values become null, because JSON has no such numbers."""
    finite = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in values.items()
    }
    return json.dumps(finite)
