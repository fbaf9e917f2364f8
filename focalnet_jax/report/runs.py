"""The metrics and settings of runs, as their workdirs hold them."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from focalnet_jax.settings.tasks import TASKS

METRICS = "metrics.jsonl"


@dataclass(frozen=True)
class Run:
    """What a workdir tells: its name, settings by dotted key, and of each metric steps and values."""

    name: str
    settings: dict[str, Any]
    curves: dict[str, tuple[list[int], list[float]]]

    @property
    def task(self) -> str:
        """The name of its task; classification where its config is from before there were others."""
        return str(self.settings.get("task", TASKS[0]))


def find_workdirs(path: Path) -> list[Path]:
    """A run's workdir itself, or those in a folder of runs, as a sweep leaves them."""
    inside = [] if os.path.exists(path / METRICS) else sorted(each.parent for each in path.glob(f"*/{METRICS}"))
    return inside or [path]


def read_run(workdir: Path) -> Run:
    """The run in a workdir.

    Raises:
      UserError: there is none, nothing is logged yet, or its metrics.jsonl or config.json is damaged.
    """
    from ml_collections import ConfigDict

    from focalnet_jax.config import flatten
    from focalnet_jax.convert.files import read_json
    from focalnet_jax.errors import UserError

    metrics = workdir / METRICS
    try:
        lines = metrics.read_text(errors="replace").splitlines()
        config = workdir / "config.json"
        settings = flatten(ConfigDict(read_json(config))) if config.exists() else {}
    except (ValueError, AttributeError) as error:  # a dot in a key, which no config of ours has
        raise UserError(f"{config} is damaged or no run's: {error}") from error
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{workdir} holds no run: there is no {METRICS} in it or in its folders") from error
    except OSError as error:
        raise UserError(f"cannot read {error.filename or workdir}: {error.strerror}") from error
    curves: dict[str, tuple[list[int], list[float]]] = {}
    for line in lines:
        try:
            row = json.loads(line)
            step = int(row["step"])
            numbers = {name: float(value) for name, value in row.items() if is_number(value)}
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):  # being written, or not a run's
            continue
        for name, value in numbers.items():
            if name != "step":
                steps, values = curves.setdefault(name, ([], []))
                steps.append(step)
                values.append(value)
    if not curves and any(map(str.strip, lines)):
        raise UserError(f"{metrics} is damaged or no run's: no line is a JSON object with a step and a number")
    if not curves:
        raise UserError(f"{workdir} has logged nothing yet")
    name = os.fsencode(workdir.resolve().name).decode(errors="replace")  # names of files need not be text
    return Run(name, dict(settings), curves)


def is_number(value: Any) -> bool:
    """Returns whether a value is a number and no bool."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)
