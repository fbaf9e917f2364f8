"""Processes that are started here and must not outlive what started them."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

_PR_SET_PDEATHSIG = 1  # of Linux's prctl


def start(command: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
    """A process in a session of its own, so that a Ctrl-C reaches it through this one alone, once.

    On Linux it is sent a SIGTERM when this process is gone, even by kill -9: a run saves and ends then.
    """
    parent = os.getpid()

    def die_with_parent() -> None:
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it has gone before it was asked for
            os._exit(1)

    prepare = die_with_parent if sys.platform == "linux" else None
    return subprocess.Popen(command, start_new_session=True, preexec_fn=prepare, **options)
