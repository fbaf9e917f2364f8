"""Runs a command and converts its errors to one line on stderr and an exit code."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from typing import NoReturn

from focalnet_jax.errors import (
    BEFORE_THE_END,
    EXIT_FAILED,
    EXIT_USER_MISTAKE,
    LEFT_BEHIND,
    RunFailedError,
    UserError,
)
from focalnet_jax.storage.failures import StorageError

_LONGEST_LINE = 4000  # characters of an error message; the longest ones list all keys of a model by their patterns


def run_command(main: Callable[[list[str]], int | None]) -> None:
    """Runs `main(arguments)` as a command, and exits with the exit code that it returns."""
    # Orbax logs every step of a save as a warning; after an error, which is printed below, the threads of its libraries
    # print messages until the process ends.
    for logger in ("absl", "asyncio"):
        logging.getLogger(logger).setLevel(logging.CRITICAL)
    sys.unraisablehook = _unraisable
    threading.excepthook = lambda *_: None
    signal.signal(signal.SIGINT, signal.default_int_handler)  # commands disable it while libraries load
    warnings.formatwarning = lambda message, *_, **__: f"warning: {printable(str(message))}\n"
    warnings.filterwarnings("ignore", module="PIL")  # data/decode.py decides which images are readable
    sys.stdout.reconfigure(errors="backslashreplace")  # file names need not be valid text
    try:
        status = main(sys.argv[1:]) or 0
        sys.stdout.flush()
    except UserError as error:
        _end_with(f"error: {error}", EXIT_USER_MISTAKE)
    except RunFailedError as error:
        _end_with(f"failed: {error}", EXIT_FAILED)
    except BrokenPipeError:  # the reader of the output has ended
        os._exit(EXIT_FAILED)
    except OSError as error:
        line = explain_os_error(error)
        if line is None:
            raise
        _end_with(line, EXIT_USER_MISTAKE if line.startswith("error") else EXIT_FAILED)
    except KeyboardInterrupt:
        _end_with("interrupted", 130)  # the shell's convention for SIGINT
    if LEFT_BEHIND:
        os._exit(status)
    sys.exit(status)


def explain_os_error(error: OSError) -> str | None:
    """Returns the message about a full or failing disk, an inaccessible path or a bucket, or None for other errors."""
    if isinstance(error, StorageError):
        return f"{'failed' if error.errno == errno.EIO else 'error'}: {error.filename}: {error.strerror}"
    where = f" at {error.filename}" if error.filename else ""
    if error.errno in (errno.ENAMETOOLONG, errno.EACCES, errno.EPERM, errno.EROFS) and where:
        return f"error: {error.strerror}{where}; give another path or make it accessible"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"failed: {error.strerror}{where}; free disk space and start the same command again"
    return f"failed: {error.strerror}{where}" if error.errno == errno.EIO else None


def _unraisable(ignored: sys.UnraisableHookArgs) -> None:
    """Ends the process on a Ctrl-C that Python could not raise, for example in the callback of a library."""
    if ignored.exc_type is KeyboardInterrupt:
        _end_with("interrupted", 130)


def _end_with(text: str, status: int) -> NoReturn:
    """Prints one line and ends at once, because libraries that shut down after an error might print more or crash."""
    line = printable(" ".join(text.split()))
    line = line if len(line) <= _LONGEST_LINE else line[:_LONGEST_LINE] + " ..."
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    print(line, file=sys.stderr, flush=True)
    for step in BEFORE_THE_END:
        step()
    os._exit(status)


def printable(text: str) -> str:
    """Returns the text with unprintable characters, such as in names of files and classes, replaced by ?."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
