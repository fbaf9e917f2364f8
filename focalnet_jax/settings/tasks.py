"""The names of the tasks."""

from collections.abc import Mapping
from typing import Any

TASKS = ("classification", "segmentation", "detection")


def task_of(config: Mapping[str, Any] | None) -> str:
    """Returns the task of a stored config.

    The task is classification if the config is None or lacks the key, because the first version had no other task.
    """
    return (config or {}).get("task", TASKS[0])


def stored_task(metadata: Mapping[str, Any]) -> str:
    """Returns the task of a checkpoint. A run stores its config, and a converted checkpoint its task."""
    return metadata["task"] if "task" in metadata else task_of(metadata.get("config"))
