"""The names of the tasks."""

from collections.abc import Mapping
from typing import Any

TASKS = ("classification", "segmentation")


def task_of(config: Mapping[str, Any] | None) -> str:
    """Returns the task of a stored config.

    The task is classification if the config is None or lacks the key, because the first version had no other task.
    """
    return (config or {}).get("task", TASKS[0])
