"""Exceptions and exit codes of the commands: an error is one line on stderr, without a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence

# Functions that a command calls after printing an error and before it ends.
BEFORE_THE_END: list[Callable[[], None]] = []
# Work of threads that may never end, such as a read from lost storage. Commands end without waiting for it.
LEFT_BEHIND: list[str] = []
EXIT_FAILED = 1
EXIT_USER_MISTAKE = 2
EXIT_PREEMPTED = 42  # stopped by a signal, with a checkpoint written


class UserError(ValueError):
    """Raised for a user's mistake (exit code 2). The message says what was given, what was expected, and what to do."""


class RunFailedError(RuntimeError):
    """Raised if a run fails for another reason than a user's mistake (exit code 1)."""


def shell_status(returncode: int) -> int:
    """Returns a process's exit code as shells report it: 128 plus the signal's number if a signal ended it."""
    return 128 - returncode if returncode < 0 else returncode


def nearest(given: str, valid: Iterable[str]) -> list[str]:
    """Returns up to three names in `valid` that are similar to `given`, the most similar first."""
    return difflib.get_close_matches(given, list(valid), n=3, cutoff=0.6)


def did_you_mean(names: Sequence[str]) -> str:
    """Returns ` Did you mean 'a' or 'b'?`, or an empty string if `names` is empty."""
    return f" Did you mean {' or '.join(map(repr, names))}?" if names else ""


def abbreviated(names: Sequence[str], most: int = 3) -> str:
    """Returns the first `most` names in one string, with `...` if there are more."""
    return f"{', '.join(names[:most])}{', ...' if len(names) > most else ''}"


def shown_size(size: int) -> str:
    """Returns a number of bytes in gigabytes or megabytes, for messages."""
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"


def suggest(given: str, valid: Iterable[str]) -> str:
    """Returns ` Did you mean ...?` with the names in `valid` that are similar to `given`, or an empty string."""
    return did_you_mean(nearest(given, valid))
