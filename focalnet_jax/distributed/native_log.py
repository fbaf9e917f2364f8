"""One line where JAX ends a process because another is gone, in place of the trace it writes from native code.

What native code writes to stderr goes through a small process of its own, this file run as a program: the one that is
ended cannot do it. What Python writes does not.
"""

import contextlib
import os
import subprocess
import sys

# What jaxlib's coordination client and service write, with more lines behind it, when they end the process.
_ENDING = (b"Terminating process because the JAX distributed service", b"Use error polling to propagate the following")
_BEFORE_IT = b"Polled an error from coordination service"
_PROCESS_0 = b"Failed to send RPC to coordination service"


def shorten() -> None:
    """From here on native code's lines pass through another process, which ends when all who write to it have."""
    with contextlib.suppress(OSError):  # no stderr to write to, or no process to be had: it stays as it is
        own = os.dup(2)
        passing = subprocess.Popen([sys.executable, "-IS", __file__], stdin=subprocess.PIPE, start_new_session=True)
        os.dup2(passing.stdin.fileno(), 2)
        passing.stdin.close()
        passing.returncode = 0  # nobody waits for it
        sys.stderr = os.fdopen(own, "w", buffering=1, errors="backslashreplace")


def _pass_on() -> None:
    out, ended = sys.stderr.buffer, False
    for line in sys.stdin.buffer:
        if ended or _BEFORE_IT in line:
            continue
        if ended := any(text in line for text in _ENDING):
            who = b"process 0" if _PROCESS_0 in line else b"another process"
            line = b"failed: %s of this run is gone or silent; what it said itself is why. " % who
            line += b"The same command goes on from the last checkpoint\n"
        out.write(line)
        out.flush()


if __name__ == "__main__":
    _pass_on()
