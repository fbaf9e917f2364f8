"""Starts and ends child processes, so that no child outlives the process that started it."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from types import FrameType
from typing import Any

from focalnet_jax.errors import shell_status

_PR_SET_PDEATHSIG = 1  # option of Linux's prctl
# Silences the warning of Python's shared memory tracker about objects that other processes are about to free.
_NO_FALSE_ALARM = "ignore::UserWarning:multiprocessing.resource_tracker"


def start(command: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
    """Starts a command in a new session, so that a Ctrl-C reaches it only once, forwarded by this process.

    On Linux, the command receives a SIGTERM when this process ends, even by kill -9. A run then saves and ends.
    """
    parent = os.getpid()

    def die_with_parent() -> None:  # a thread, like in `end_with_parent`, would not survive the exec
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # the parent ended before the request took effect
            os._exit(1)

    prepare = die_with_parent if sys.platform == "linux" else None
    return subprocess.Popen(command, start_new_session=True, preexec_fn=prepare, **options)


class Forwarder:
    """Runs commands and forwards signals to them. Set `forward` as the signal handler, see `handled`.

    Attributes:
      received: the signals received, in order.
    """

    def __init__(self) -> None:
        self.received: list[int] = []
        self._process: subprocess.Popen[Any] | None = None

    def forward(self, number: int, frame: FrameType | None = None) -> None:
        """Records a signal, and sends it to the running command, if there is one."""
        self.received.append(number)
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def run(self, command: Sequence[str]) -> int:
        """Runs a command and returns its exit code. Also forwards a signal that was received before the start."""
        self._process = start(command)
        if self.received:
            self._process.send_signal(self.received[-1])
        return shell_status(self._process.wait())


def end_with_parent(*_: int) -> None:
    """Makes this `multiprocessing` process end when its parent has ended, even by kill -9.

    Arguments are ignored, so that this function can be Grain's `worker_init_fn`.
    """
    started_by = multiprocessing.parent_process()
    parent = os.getppid() if started_by is None else started_by.pid

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def without_false_alarms() -> None:
    """Silences a wrong warning of Python's resource tracker in processes that are started from now on."""
    if _NO_FALSE_ALARM not in sys.warnoptions:
        sys.warnoptions.append(_NO_FALSE_ALARM)


def end_all() -> None:
    """Kills all child processes of `multiprocessing`, including those that hang."""
    for process in multiprocessing.active_children():
        process.kill()
