"""Command line arguments that the benchmarks share."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ml_collections import FrozenConfigDict

from focalnet_jax.aot import MAX_BATCH_PER_DEVICE
from focalnet_jax.errors import UserError
from focalnet_jax.programs.config_files import load_config
from focalnet_jax.programs.flags import Parser


def make_parser(description: str) -> Parser:
    """Returns a parser with the docstring of a module as its help."""
    return Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)


def check_overrides(overrides: Sequence[str], **settings: str) -> None:
    """Raises `UserError` for a setting that a benchmark does not support.

    `settings` maps config keys or sections, with `__` instead of `.`, to the reason why they cannot be set.
    `model.name` is never supported, because --model sets it.
    """
    for name, why in {"model__name": "--model sets the model", **settings}.items():
        setting = f"--config.{name.replace('__', '.')}"
        if any(f"{override.partition('=')[0]}.".startswith(f"{setting}.") for override in overrides):
            raise UserError(f"{setting}: {why}")


def load_recipe(model: str, overrides: Sequence[str] = ()) -> FrozenConfigDict:
    """Returns the config of the ImageNet-1K recipe for a variant, in bfloat16 and without data.

    Raises:
      UserError: `model` is empty or not a variant.
    """
    if not model:
        raise UserError("--model is empty; expected a variant such as base_lrf")
    settings = ["--config.data.path=none", "--config.precision=bfloat16", *overrides]
    return load_config(f"configs/imagenet1k.py:{model}", settings)


def positive(text: str) -> int:
    """Parses a positive whole number."""
    if not text.isdecimal() or len(text) > 18 or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text[:20]}: expected a whole number above 0 and below 10**18")
    return int(text)


def images(text: str) -> int:
    """Parses the number of images per device."""
    count = positive(text)
    if count > MAX_BATCH_PER_DEVICE:
        raise argparse.ArgumentTypeError(f"{text}: expected at most {MAX_BATCH_PER_DEVICE} images")
    return count


def seconds(text: str) -> float:
    """Parses a time in seconds."""
    try:
        taken = float(text)
    except ValueError:
        taken = 0.0
    if not 0 < taken < 1e6:
        raise argparse.ArgumentTypeError(f"{text}: expected a number of seconds above 0")
    return taken
