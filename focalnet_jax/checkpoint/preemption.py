"""Stops a run on a signal within the grace period, without losing progress."""

from __future__ import annotations

import contextlib
import math
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType

from focalnet_jax.errors import EXIT_FAILED, EXIT_PREEMPTED
from focalnet_jax.system.signals import in_main_thread

SIGNALS = (signal.SIGTERM, signal.SIGINT)
_ECHO_SECONDS = 0.5  # a repeated signal is ignored for this time: launchers often signal a process and its group


class StopRequest:
    """Context manager that sets `received` at the first SIGTERM or SIGINT, so that the run can save and end.

    A second signal ends the process at once, and so does the end of the grace period.

    Python runs no signal handlers while it waits for a compiler or a device. The signal's number is therefore written
    into a pipe, which needs no Python code, and a thread reads the pipe. Outside the main thread, the context manager
    only prints a note, and signals are left to the caller.

    Args:
      grace_seconds: longest time from the first signal to the end of the process.

    Attributes:
      received: the first signal, or None if there was no signal.
      saved: function that returns the current step if it is saved, else None; the run sets it.
    """

    def __init__(self, grace_seconds: float):
        self.received: signal.Signals | None = None
        self.saved: Callable[[], int | None] = lambda: None
        self._grace = grace_seconds

    def __enter__(self) -> StopRequest:
        self._handles_signals = in_main_thread()
        if not self._handles_signals:
            _print("not in the main thread: signals are left to the calling program and do not stop this run")
            return self
        self._previous = {number: signal.signal(number, _ignore) for number in SIGNALS}
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._woken = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._read_signals, name="signals", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if not self._handles_signals:
            return
        signal.set_wakeup_fd(self._woken)
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        os.write(self._write, b"\0")  # not the number of a signal: ends the thread
        self._thread.join()
        for end in (self._read, self._write):
            os.close(end)

    def _read_signals(self) -> None:
        since = 0.0
        poll = select.poll()  # `select.select` takes only the first 1024 file descriptors of a process
        poll.register(self._read, select.POLLIN)
        while True:
            left = None if self.received is None else max(0.0, self._grace - (time.monotonic() - since))
            ready = poll.poll(None if left is None else math.ceil(1000 * left))
            if not ready and (step := self.saved()) is not None:
                _print(f"stopped by {self.received.name}, step {step} is saved; the same command resumes the run")
                os._exit(EXIT_PREEMPTED)
            if not ready:
                _exit_with(
                    f"no step was finished and saved within {self._grace:.0f} s of {self.received.name} "
                    "(grace_seconds); the same command resumes from the last checkpoint",
                    EXIT_FAILED,
                )
            for code in os.read(self._read, 64):
                if code == 0:
                    return
                if code in SIGNALS and self.received is None:
                    self.received, since = signal.Signals(code), time.monotonic()
                    _print(f"{self.received.name}: finishing this step, then saving; repeat the signal to stop at once")
                elif code in SIGNALS and time.monotonic() - since > _ECHO_SECONDS:
                    _exit_with(f"{signal.Signals(code).name} again: stopped at once, nothing saved", 128 + code)


def _ignore(number: int, frame: FrameType | None) -> None:
    """Does nothing; Python needs a handler to write the signal into the pipe."""


def _exit_with(text: str, status: int) -> None:
    _print(f"failed: {text}")
    os._exit(status)


def _print(text: str) -> None:
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)
