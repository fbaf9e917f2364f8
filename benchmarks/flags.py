"""Command lines of benchmarks: a mistake is one line and exit code 2."""

from __future__ import annotations

import argparse
import sys
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """A parser with a module's docstring as its help."""

    def __init__(self, description: str) -> None:
        super().__init__(
            description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
        )

    def error(self, message: str) -> NoReturn:
        """One line."""
        print(f"error: {message}; --help explains", file=sys.stderr)
        sys.exit(2)


def positive(text: str) -> int:
    """A number that counts something."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected a whole number above 0")
    return int(text)


def seconds(text: str) -> float:
    """A time."""
    try:
        taken = float(text)
    except ValueError:
        taken = 0.0
    if not 0 < taken < 1e6:
        raise argparse.ArgumentTypeError(f"{text}: expected seconds above 0")
    return taken
