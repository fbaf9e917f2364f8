"""The names of the tasks."""

from collections.abc import Mapping
from typing import Any

TASKS = ("classification",)


def task_of(config: Mapping[str, Any] | None) -> str:
    """Returns the task of a stored config; classification if there is none, or if it is older than the key."""
    return (config or {}).get("task", TASKS[0])
