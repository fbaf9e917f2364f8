"""The tasks that can be trained, one package per task."""

from __future__ import annotations

import importlib

from focalnet_jax.settings import settings_of
from focalnet_jax.tasks.task import Kind


def task_kind(name: str) -> Kind:
    """Returns the module `tasks/NAME/kind.py` of the task `name`, which makes tasks from configs.

    Raises:
      UserError: there is no task of this name.
    """
    settings_of(name)
    return importlib.import_module(f"focalnet_jax.tasks.{name}.kind")
