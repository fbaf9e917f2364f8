"""Prints one line instead of JAX's native trace when JAX ends a process because another process has ended.

The stderr of native code is piped through a small filter process (this file run as a program), because a process cannot
filter its own output while JAX is ending it. Python's stderr is not filtered.
"""

import contextlib
import os
import subprocess
import sys

# First lines of the messages with which jaxlib's coordination client and service end the process.
_ENDING = (b"Terminating process because the JAX distributed service", b"Use error polling to propagate the following")
_BEFORE_IT = b"Polled an error from coordination service"
_PROCESS_0 = b"Failed to send RPC to coordination service"


def shorten() -> None:
    """Pipes the stderr of native code through a filter process, which ends when all its writers have ended."""
    with contextlib.suppress(OSError):  # if stderr is closed or no process can start, nothing is filtered
        own = os.dup(2)
        log_filter = subprocess.Popen([sys.executable, "-IS", __file__], stdin=subprocess.PIPE, start_new_session=True)
        os.dup2(log_filter.stdin.fileno(), 2)
        log_filter.stdin.close()
        log_filter.returncode = 0  # marks it as ended: otherwise Python warns that it was not waited for
        sys.stderr = os.fdopen(own, "w", buffering=1, errors="backslashreplace")


def _filter() -> None:
    out, ended = sys.stderr.buffer, False
    for line in sys.stdin.buffer:
        if ended or _BEFORE_IT in line:
            continue
        if ended := any(text in line for text in _ENDING):
            peer = b"process 0" if _PROCESS_0 in line else b"another process"
            line = b"failed: %s of this run has ended or does not respond; its own messages say why. " % peer
            line += b"The same command resumes from the last checkpoint\n"
        out.write(line)
        out.flush()


if __name__ == "__main__":
    _filter()
