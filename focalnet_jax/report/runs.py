"""Reads the metrics and settings of runs from their workdirs."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from focalnet_jax.settings.tasks import task_of
from focalnet_jax.storage.address import AnyPath, is_bucket, resolved
from focalnet_jax.storage.failures import StorageError, unreadable
from focalnet_jax.storage.files import answering, check_bucket, exists, folders_in, read_text, requests

METRICS = "metrics.jsonl"
PREDICTIONS = "predictions.png"  # predictions and ground truth of the newest evaluation, if the run draws them
_TABLE = "/table"  # end of the names of tables in metrics.jsonl


@dataclass(frozen=True)
class RunLog:
    """Settings and metrics of a run.

    Attributes:
      name: name of the workdir.
      settings: values of the config by dotted key.
      curves: steps and values of each metric.
      tables: the last table of each evaluation, by the evaluation's name. The first row has the titles.
      predictions: PNG with the predictions of the newest evaluation, or None.
    """

    name: str
    settings: dict[str, Any]
    curves: dict[str, tuple[list[int], list[float]]]
    tables: dict[str, list[list[str]]] = field(default_factory=dict)
    predictions: bytes | None = None

    @property
    def task(self) -> str:
        """Name of the task, which is classification if the stored config has no such key."""
        return str(task_of(self.settings))


def find_workdirs(path: AnyPath) -> list[AnyPath]:
    """Returns the workdirs in a folder of runs, such as the folder of a sweep, or otherwise only `path`."""
    if not is_bucket(path):
        return ([] if exists(path / METRICS) else sorted(each.parent for each in path.glob(f"*/{METRICS}"))) or [path]
    with answering(path):
        if exists(path / METRICS):
            return [path]
        found = [folder for folder in folders_in(path) if exists(folder / METRICS)]
        if not found:
            check_bucket(path)
        return found or [path]


def names_of(workdirs: Sequence[AnyPath]) -> list[str]:
    """Returns the paths of workdirs relative to their common folder, or whole paths if only some are in buckets."""
    whole = [str(resolved(workdir)) for workdir in workdirs]
    if len(set(map(is_bucket, whole))) > 1:
        return whole
    shared = os.path.commonpath(whole)
    return [os.path.relpath(path, shared) for path in whole]


def read_run(workdir: AnyPath) -> RunLog:
    """Reads the settings and metrics of the run in a workdir.

    Raises:
      UserError: there is no run, nothing is logged yet, or metrics.jsonl or config.json is damaged.
      RunFailedError: a bucket does not answer.
    """
    from ml_collections import ConfigDict

    from focalnet_jax.config import flatten
    from focalnet_jax.convert.files import read_json
    from focalnet_jax.errors import UserError

    metrics = workdir / METRICS
    try:
        lines = read_text(metrics).splitlines()
        config = workdir / "config.json"
        settings = flatten(ConfigDict(read_json(config))) if exists(config) else {}
        with requests(workdir):
            predictions = (workdir / PREDICTIONS).read_bytes() if exists(workdir / PREDICTIONS) else None
    except UserError:  # names the damaged file
        raise
    except (ValueError, AttributeError) as error:  # such as a dot in a key
        raise UserError(f"{config} is damaged or not the config of a run: {error}") from error
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{workdir} contains no run; expected {METRICS} in it or in its folders") from error
    except StorageError as error:
        raise unreadable(error.filename, error) from error
    except OSError as error:
        raise UserError(f"cannot read {error.filename or workdir}: {error.strerror}") from error
    curves: dict[str, tuple[list[int], list[float]]] = {}
    tables: dict[str, list[list[str]]] = {}
    for line in lines:
        try:
            row = json.loads(line)
            step = int(row["step"])
            numbers = {name: float(value) for name, value in row.items() if is_number(value)}
        except (
            ValueError,
            TypeError,
            KeyError,
            OverflowError,
            RecursionError,
        ):  # a line that is being written, or that is not of a run
            continue
        tables |= {name.removesuffix(_TABLE): rows for name, rows in row.items() if name.endswith(_TABLE) and rows}
        for name, value in numbers.items():
            if name != "step":
                steps, values = curves.setdefault(name, ([], []))
                steps.append(step)
                values.append(value)
    if not curves and any(map(str.strip, lines)):
        raise UserError(
            f"{metrics} is damaged or not the metrics of a run: no line is a JSON object with a step and a number"
        )
    if not curves:
        raise UserError(f"the run in {workdir} has logged nothing yet")
    name = os.fsencode(resolved(workdir).name).decode(errors="replace")  # file names may be invalid UTF-8
    return RunLog(name, dict(settings), curves, tables, predictions)


def is_number(value: Any) -> bool:
    """Returns whether a value is a number, and not a bool."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)
