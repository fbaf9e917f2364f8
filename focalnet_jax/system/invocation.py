"""The command that started this process."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path


def command_line() -> str | None:
    """Returns the command line of a training run, as `python train.py ...`, or None for other programs.

    The home directory is written as `~`. `focalnet train ...` is the same program and has the same command line.
    """
    program = Path(sys.argv[0]).name
    if program != "train.py":
        return None
    home = os.path.expanduser("~")
    words = [word.replace(f"{home}/", "~/") if len(home) > 1 else word for word in sys.argv[1:]]
    return shlex.join(["python", program, *words])
