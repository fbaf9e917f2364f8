"""Processes beside this one."""

from __future__ import annotations

import sys

# Python's tracker of shared memory and semaphores complains of what others still free when a program ends.
_NO_FALSE_ALARM = "ignore::UserWarning:multiprocessing.resource_tracker"


def without_false_alarms() -> None:
    """Keeps the tracker that the first process to be started brings along from complaining."""
    if _NO_FALSE_ALARM not in sys.warnoptions:
        sys.warnoptions.append(_NO_FALSE_ALARM)
