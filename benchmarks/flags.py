"""Command lines of benchmarks, whose `main`s `focalnet_jax.command_line.run_command` runs: a mistake is one line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from focalnet_jax.command_line import one_line_errors
from focalnet_jax.errors import UserError

_MOST = 4096  # images of a device, as many as focalnet_jax.aot looks for


def make_parser(description: str) -> argparse.ArgumentParser:
    """A parser with a module's docstring as its help."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    one_line_errors(parser)
    return parser


def check_overrides(overrides: Sequence[str], **settings: str) -> None:
    """`UserError` for a setting that a benchmark does not take: its name with `__` for `.`, and why it does not.

    Of a group of settings none is taken. The model is always told by --model.
    """
    for name, why in {"model__name": "the model is --model", **settings}.items():
        setting = f"--config.{name.replace('__', '.')}"
        if any(f"{override.partition('=')[0]}.".startswith(f"{setting}.") for override in overrides):
            raise UserError(f"{setting}: {why}")


def positive(text: str) -> int:
    """A number that counts something."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected a whole number above 0")
    return int(text)


def images(text: str) -> int:
    """Those of a batch, on one device."""
    count = positive(text)
    if count > _MOST:
        raise argparse.ArgumentTypeError(f"{text}: expected at most {_MOST} images")
    return count


def seconds(text: str) -> float:
    """A time."""
    try:
        taken = float(text)
    except ValueError:
        taken = 0.0
    if not 0 < taken < 1e6:
        raise argparse.ArgumentTypeError(f"{text}: expected seconds above 0")
    return taken
