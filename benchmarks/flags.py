"""Command lines of benchmarks, whose `main`s `focalnet_jax.command_line.run_command` runs: a mistake is one line."""

from __future__ import annotations

import argparse

from focalnet_jax.command_line import one_line_errors


def make_parser(description: str) -> argparse.ArgumentParser:
    """A parser with a module's docstring as its help."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    one_line_errors(parser)
    return parser


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
