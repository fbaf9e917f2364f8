"""The command that started this process."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path


def command_line() -> str | None:
    """Returns the command line of a training run, with `~` for the home directory, or None for other programs."""
    program = Path(sys.argv[0]).name
    if program not in ("train.py", "focalnet"):
        return None
    start = ["focalnet"] if program == "focalnet" else ["python", program]
    home = os.path.expanduser("~")
    words = [word.replace(f"{home}/", "~/") if len(home) > 1 else word for word in sys.argv[1:]]
    return shlex.join([*start, *words])
