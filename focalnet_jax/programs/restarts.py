"""Restarts a failed run, up to a number of times; it resumes from its last checkpoint."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from types import FrameType

from focalnet_jax.errors import EXIT_FAILED, EXIT_PREEMPTED, EXIT_USER_MISTAKE, shell_status
from focalnet_jax.system.children import start
from focalnet_jax.system.signals import handled

_ENDS = (0, EXIT_USER_MISTAKE, EXIT_PREEMPTED)  # exit codes without a restart: done, would fail again, stopped
_LONGEST_PAUSE = 60.0


def run_again(command: Sequence[str], most: int) -> int:
    """Runs a command, and restarts it up to `most` times if it fails or is killed; returns its last exit code.

    Signals are forwarded to the command; after a SIGTERM or SIGINT it is not restarted.
    """
    received: list[int] = []
    process: subprocess.Popen[bytes] | None = None

    def forward(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if process is not None and process.poll() is None:
            process.send_signal(number)

    with handled((signal.SIGTERM, signal.SIGINT), forward):
        for attempt in range(most + 1):
            process = start(command)
            if received:  # between two attempts
                process.send_signal(received[-1])
            status = shell_status(process.wait())
            if status in _ENDS or received or attempt == most:
                return status
            pause = min(2.0 ** min(attempt, 10), _LONGEST_PAUSE)
            print(
                f"ended with exit code {status}: restarting in {pause:.0f} s ({attempt + 1} of {most} restarts)",
                file=sys.stderr,
                flush=True,
            )
            deadline = time.monotonic() + pause
            while time.monotonic() < deadline and not received:
                time.sleep(0.1)
            if received:
                return status
    return EXIT_FAILED
