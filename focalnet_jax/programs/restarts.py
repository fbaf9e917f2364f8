"""Restarts a run that fails, a limited number of times. The run resumes from its last checkpoint."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Sequence

from focalnet_jax.errors import EXIT_FAILED, EXIT_PREEMPTED, EXIT_USER_MISTAKE
from focalnet_jax.system.children import Forwarder
from focalnet_jax.system.signals import handled

_ENDS = (0, EXIT_USER_MISTAKE, EXIT_PREEMPTED)  # no restart: done, would fail again, or stopped on purpose
_LONGEST_PAUSE = 60.0


def run_again(command: Sequence[str], most: int) -> int:
    """Runs a command, and restarts it up to `most` times if it fails or is killed. Returns the last exit code.

    A SIGTERM or SIGINT is forwarded to the command. The command is then not restarted.
    """
    forwarder = Forwarder()
    with handled((signal.SIGTERM, signal.SIGINT), forwarder.forward):
        for attempt in range(most + 1):
            status = forwarder.run(command)
            if status in _ENDS or forwarder.received or attempt == most:
                return status
            pause = min(2.0 ** min(attempt, 10), _LONGEST_PAUSE)
            print(
                f"ended with exit code {status}: restarting in {pause:.0f} s ({attempt + 1} of {most} restarts)",
                file=sys.stderr,
                flush=True,
            )
            deadline = time.monotonic() + pause
            while time.monotonic() < deadline and not forwarder.received:
                time.sleep(0.1)
            if forwarder.received:
                return status
    return EXIT_FAILED
