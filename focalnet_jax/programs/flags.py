"""Command line parsers, and the flags that several commands share."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from focalnet_jax.errors import UserError
from focalnet_jax.storage.address import AnyPath, to_path

CALLED_AS = "python -m focalnet_jax."  # prefix of a command's name in its help
INSTALLED = "focalnet "  # prefix of a command's name in the help of the installed command


class Parser(argparse.ArgumentParser):
    """Argument parser of every command. It raises `UserError` for mistakes and expands `~` to the home directory.

    A shell expands `~` only at the beginning of a word, so `--workdir=~/runs` and `--config.data.path=~/images` arrive
    unexpanded. Every value that begins with `~` is expanded, because only paths begin with it.
    """

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        """Parses arguments after expanding `~`. `parse_args` calls this method too."""
        return super().parse_known_args(list(map(with_home, sys.argv[1:] if args is None else args)), namespace)

    def error(self, message: str) -> NoReturn:
        """Raises `UserError` with the message."""
        raise UserError(f"{message}; --help explains")


def with_home(argument: str) -> str:
    """Expands a leading `~` or `~user` in an argument, or in the value of `--KEY=VALUE`."""
    flag, equals, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
    return f"{flag}{equals}{os.path.expanduser(value)}"


def parse_arguments(parser: Parser, arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Returns the parser's flags, and the remaining arguments, such as `--config.KEY=VALUE`."""
    parser.epilog = "--config.KEY=VALUE sets any key of the config; focalnet_jax/config.py lists the keys"
    parser.usage = f"{parser.format_usage().removeprefix('usage: ').strip()} [--config.KEY=VALUE ...]"
    return parser.parse_known_args(arguments)


def make_script_parser(name: str, description: str) -> Parser:
    """Returns the parser of the command `python NAME.py` or `focalnet NAME`."""
    prog = f"{CALLED_AS}{name}" if CALLED_AS == INSTALLED else f"python {name}.py"
    return Parser(prog=prog, description=description, allow_abbrev=False)


def make_parser(module: str, description: str) -> Parser:
    """Returns the parser of the command `python -m focalnet_jax.MODULE`, or `python -m focalnet_jax` for ""."""
    return Parser(
        prog=f"{CALLED_AS}{module}".removesuffix("."),
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def add_checkpoint_flag(parser: argparse.ArgumentParser) -> None:
    """Adds `--checkpoint`, the path of weights in any format."""
    parser.add_argument(
        "--checkpoint",
        required=True,
        metavar="PATH",
        help="workdir, step, .pth or .safetensors file, Hugging Face directory, or hf://ORG/NAME on the hub",
    )


def add_weights_flags(parser: argparse.ArgumentParser) -> None:
    """Adds `--model`, `--option` and `--weights`, for information that a weights file does not contain."""
    parser.add_argument("--model", metavar="NAME", help="variant of the weights (default: recognised from them)")
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="KEY=true|false",
        help="use_postln or normalize_modulator, which the shapes of the weights do not show",
    )
    add_which_flag(parser)


def add_classes_flag(parser: argparse.ArgumentParser) -> None:
    """Adds `--classes`, a file with the class names of the model's outputs."""
    parser.add_argument("--classes", metavar="FILE", help="class names of the outputs, one per line in their order")


def add_which_flag(parser: argparse.ArgumentParser) -> None:
    """Adds `--weights`, which selects one of several models in a file."""
    parser.add_argument(
        "--weights",
        metavar="NAME",
        help="which of several models: ema, a key or prefix such as teacher, or a file in a directory such as model_1",
    )


def check_number(flag: str, value: int | None, least: int, most: int | None = None) -> None:
    """Raises `UserError` if `value` is less than `least` or more than `most`. None (no such flag given) is accepted."""
    if value is not None and (value < least or (most is not None and value > most)):
        raise UserError(f"{flag} {value}: expected {least} {'or more' if most is None else f'to {most}'}")


def parse_size(flag: str, text: str | None, most: int | None = None) -> tuple[int, int] | None:
    """Returns (height, width) in pixels from `SIDE` or `HEIGHTxWIDTH`, or None if `text` is None.

    Raises:
      UserError: `text` has another form, or a side is less than 1 or more than `most`.
    """
    if text is None:
        return None
    parts = text.lower().split("x")
    sides = [int(part) for part in parts if part.isdecimal() and len(part) < 10]
    if len(sides) != len(parts) or len(sides) > 2:
        raise UserError(f"{flag} {text}: expected the side of a square in pixels, or HEIGHTxWIDTH")
    for side in sides:
        check_number(flag, side, 1, most)
    return sides[0], sides[-1]


def parse_workdir(text: str) -> AnyPath:
    """Returns the workdir as a path; raises `UserError` if it is empty or an unsupported address."""
    if not text:
        raise UserError("--workdir '': expected a local directory or gs://BUCKET/NAME")
    return to_path(text, "--workdir")
