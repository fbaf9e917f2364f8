"""The keys of a config by task: defaults, meanings and checks. Nothing here loads JAX."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from ml_collections import ConfigDict

from focalnet_jax.errors import UserError, suggest
from focalnet_jax.settings.checks import CHECKS
from focalnet_jax.settings.tasks import TASKS

MAIN = "eval"  # name of the evaluation that ranks checkpoints, and prefix of its metrics in metrics.jsonl
Checks = Mapping[str, tuple[Callable[[Any], bool], str]]


class Settings(Protocol):
    """Interface of the modules `settings/TASK.py`."""

    BEST_METRIC: str  # metric of the evaluation `MAIN` that ranks checkpoints; higher is better
    # Names and titles of metrics in percent. Reports draw the first two that a run has logged; sweeps list BEST_METRIC.
    HEADLINE: tuple[tuple[str, str], ...]
    AUTO: tuple[str, ...]  # keys that may be left to be chosen, in addition to `config.AUTO`
    RESUMABLE: tuple[str, ...]  # keys that may differ on resume, in addition to `training.stored_config.RESUMABLE`
    RECORDS: bool  # whether evaluations have predictions in a format of other tools, see `Evaluation.records`
    CHECKS: Checks  # for each key, a function that returns whether a value is valid, and the valid values in words

    def add_keys(self, config: ConfigDict) -> None:
        """Adds the keys of the task to the keys of the trainer."""


def settings_of(task: str) -> Settings:
    """Returns the settings of a task.

    Raises:
      UserError: there is no such task.
    """
    if task not in TASKS:
        raise UserError(f"unknown task {task!r}; expected {' or '.join(TASKS)}.{suggest(str(task), TASKS)}")
    return importlib.import_module(f"focalnet_jax.settings.{task}")


def ranking_metric(task: str) -> str:
    """Returns the name of the metric that ranks the checkpoints of a task, as in metrics.jsonl."""
    return f"{MAIN}/{settings_of(task).BEST_METRIC}"


def checks_of(task: str) -> Checks:
    """Returns the checks of all keys of a task."""
    return CHECKS | settings_of(task).CHECKS
