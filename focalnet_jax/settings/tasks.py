"""The names of the tasks."""

TASKS = ("classification",)
