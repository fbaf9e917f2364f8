"""The tasks that can be trained, each in a package of its own."""

from __future__ import annotations

import importlib

from focalnet_jax.settings import settings_of
from focalnet_jax.tasks.task import Kind


def task_kind(name: str) -> Kind:
    """Returns the task of that name, before it meets a config's data.

    Raises:
      UserError: no such task.
    """
    settings_of(name)
    return importlib.import_module(f"focalnet_jax.tasks.{name}.kind")
