"""How a user's mistake reaches the user: one line on stderr, exit code 2, no traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

EXIT_FAILED = 1
EXIT_USER_MISTAKE = 2
EXIT_PREEMPTED = 42  # stopped by a signal, with a checkpoint written


class UserError(ValueError):
    """What was given, what was expected, what to do: one line, shown without a traceback."""


def suggest(given: str, valid: Iterable[str], count: int = 3) -> str:
    """` Did you mean 'a' or 'b'?` for the names in `valid` nearest to `given`, or an empty string."""
    near = difflib.get_close_matches(given, list(valid), n=count, cutoff=0.5)
    return f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
