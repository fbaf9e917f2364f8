"""Processes beside this one."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import time

# Python's tracker of shared memory and semaphores complains of what others still free when a program ends.
_NO_FALSE_ALARM = "ignore::UserWarning:multiprocessing.resource_tracker"


def without_false_alarms() -> None:
    """Keeps the tracker that the first process to be started brings along from complaining."""
    if _NO_FALSE_ALARM not in sys.warnoptions:
        sys.warnoptions.append(_NO_FALSE_ALARM)


def end_with_parent(*_: int) -> None:
    """In a process beside another: has it end when that one is gone, even by kill -9. Arguments are not looked at."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def end_all() -> None:
    """Ends the processes beside this one, also those that stand still."""
    for process in multiprocessing.active_children():
        process.kill()
