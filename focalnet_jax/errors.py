"""How a user's mistake reaches the user: one line on stderr, exit code 2, no traceback."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence

# What a program does between the line about an error and its end.
BEFORE_THE_END: list[Callable[[], None]] = []
# What still runs and may never end, such as a read from storage that is gone: no program waits for it.
LEFT_BEHIND: list[str] = []
EXIT_FAILED = 1
EXIT_USER_MISTAKE = 2
EXIT_PREEMPTED = 42  # stopped by a signal, with a checkpoint written


class UserError(ValueError):
    """What was given, what was expected, what to do: one line, shown without a traceback."""


class RunFailedError(RuntimeError):
    """A run that cannot go on through nobody's typing: one line, shown without a traceback, exit code 1."""


def shell_status(returncode: int) -> int:
    """A process's exit code as shells give it: 128 and the number for one that a signal ended."""
    return 128 - returncode if returncode < 0 else returncode


def nearest(given: str, valid: Iterable[str]) -> list[str]:
    """Up to three names in `valid` that `given` may have meant."""
    return difflib.get_close_matches(given, list(valid), n=3, cutoff=0.6)


def did_you_mean(names: Sequence[str]) -> str:
    """` Did you mean 'a' or 'b'?`, or an empty string for no names."""
    return f" Did you mean {' or '.join(map(repr, names))}?" if names else ""


def suggest(given: str, valid: Iterable[str]) -> str:
    """What of `valid` may have been meant, as a sentence with a space before it, or an empty string."""
    return did_you_mean(nearest(given, valid))
