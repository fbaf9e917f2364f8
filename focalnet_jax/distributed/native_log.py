"""Prints one line instead of JAX's native trace when JAX ends a process because another process has ended.

The stderr of native code is piped through a small filter process (this file run as a program), because a process cannot
filter its own output while JAX is ending it. Python's stderr is not filtered, except for `print_last`: an exchange may
raise an error while JAX ends the process, and only the first of the two messages is printed.
"""

import contextlib
import os
import subprocess
import sys

# First lines of the messages with which jaxlib's coordination client and service end the process.
_ENDING = (b"Terminating process because the JAX distributed service", b"Use error polling to propagate the following")
_BEFORE_IT = b"Polled an error from coordination service"
_unfiltered = None  # Python's stderr, if that of native code is filtered
_LAST = b"\x1elast: "  # precedes the message of `print_last`
_PROCESS_0 = b"Failed to send RPC to coordination service"


def shorten() -> None:
    """Pipes the stderr of native code through a filter process, which ends when all its writers have ended."""
    global _unfiltered
    with contextlib.suppress(OSError):  # if stderr is closed or no process can start, nothing is filtered
        own = os.dup(2)
        log_filter = subprocess.Popen([sys.executable, "-IS", __file__], stdin=subprocess.PIPE, start_new_session=True)
        os.dup2(log_filter.stdin.fileno(), 2)
        log_filter.stdin.close()
        log_filter.returncode = 0  # marks it as ended: otherwise Python warns that it was not waited for
        sys.stderr = _unfiltered = os.fdopen(own, "w", buffering=1, errors="backslashreplace")


def print_last(line: str) -> None:
    """Prints the last line of this process to stderr, unless a line that replaced JAX's trace was printed before.

    Nothing that native code prints after this line is shown.
    """
    if sys.stderr is _unfiltered:
        with contextlib.suppress(OSError):  # the filter process was killed
            os.write(2, b"%s%s\n" % (_LAST, line.encode(errors="backslashreplace")))
            return
    print(line, file=sys.stderr, flush=True)


def _filter() -> None:
    out, ended = sys.stderr.buffer, False
    for line in sys.stdin.buffer:
        if ended or _BEFORE_IT in line:
            continue
        if _LAST in line:
            ended, line = True, line.partition(_LAST)[2]
        elif ended := any(text in line for text in _ENDING):
            peer = b"process 0" if _PROCESS_0 in line else b"another process"
            line = b"failed: %s of this run has ended or does not respond; its own messages say why. " % peer
            line += b"The same command resumes from the last checkpoint\n"
        out.write(line)
        out.flush()


if __name__ == "__main__":
    _filter()
