"""Command lines: parsing flags and configs, and turning errors into one line and an exit code."""

from __future__ import annotations

import argparse
import ast
import contextlib
import errno
import importlib.util
import logging
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from ml_collections import ConfigDict, FrozenConfigDict

import focalnet_jax
from focalnet_jax.config import BY_MACHINE, REQUIRED, auto_keys, check_values, default_config, expand_paths, flatten
from focalnet_jax.errors import (
    BEFORE_THE_END,
    EXIT_FAILED,
    EXIT_USER_MISTAKE,
    LEFT_BEHIND,
    RunFailedError,
    UserError,
    did_you_mean,
    nearest,
    suggest,
)
from focalnet_jax.settings import checks_of
from focalnet_jax.settings.evaluations import evaluation

CALLED_AS = "python -m focalnet_jax."  # prefix of a command's name in its help
INSTALLED = "focalnet "  # the same prefix if the installed command runs
_LONGEST_LINE = 4000  # characters of an error message; the longest ones list all keys of a model by their patterns


def run_command(main: Callable[[list[str]], int | None]) -> None:
    """Runs `main(arguments)` as a command line program and exits with its status."""
    # Orbax logs every step of a save as a warning; after an error, which is printed below, the threads of its libraries
    # print messages until the process ends.
    for logger in ("absl", "asyncio"):
        logging.getLogger(logger).setLevel(logging.CRITICAL)
    sys.unraisablehook = _unraisable
    threading.excepthook = lambda *_: None
    signal.signal(signal.SIGINT, signal.default_int_handler)  # programs disable it while libraries load
    warnings.formatwarning = lambda message, *_, **__: f"warning: {printable(str(message))}\n"
    warnings.filterwarnings("ignore", module="PIL")  # data/decode.py decides which images are readable
    sys.stdout.reconfigure(errors="backslashreplace")  # file names need not be valid text
    try:
        status = main(sys.argv[1:]) or 0
        sys.stdout.flush()
    except UserError as error:
        _end_with(f"error: {error}", EXIT_USER_MISTAKE)
    except RunFailedError as error:
        _end_with(f"failed: {error}", EXIT_FAILED)
    except BrokenPipeError:  # the reader of the output has ended
        os._exit(EXIT_FAILED)
    except OSError as error:
        line = explain_os_error(error)
        if line is None:
            raise
        _end_with(line, EXIT_USER_MISTAKE if line.startswith("error") else EXIT_FAILED)
    except KeyboardInterrupt:
        _end_with("interrupted", 130)  # the shell's convention for SIGINT
    if LEFT_BEHIND:
        os._exit(status)
    sys.exit(status)


def explain_os_error(error: OSError) -> str | None:
    """Returns the line for a full or failing disk, or for a path that the user has to change; None for other errors."""
    where = f" at {error.filename}" if error.filename else ""
    if error.errno in (errno.ENAMETOOLONG, errno.EACCES, errno.EPERM, errno.EROFS) and where:
        return f"error: {error.strerror}{where}; give another path or make it accessible"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"failed: {error.strerror}{where}; free disk space and start it again"
    return f"failed: {error.strerror}{where}" if error.errno == errno.EIO else None


def _unraisable(ignored: sys.UnraisableHookArgs) -> None:
    """Ends the program on a Ctrl-C that Python could not raise, such as in a library's callback."""
    if ignored.exc_type is KeyboardInterrupt:
        _end_with("interrupted", 130)


def _end_with(text: str, status: int) -> NoReturn:
    """Prints one line and ends at once: libraries shut down after an error might print more, or crash."""
    line = printable(" ".join(text.split()))
    line = line if len(line) <= _LONGEST_LINE else line[:_LONGEST_LINE] + " ..."
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    print(line, file=sys.stderr, flush=True)
    for step in BEFORE_THE_END:
        step()
    os._exit(status)


def printable(text: str) -> str:
    """Returns the text with unprintable characters, such as in names of files and classes, replaced by ?."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


class Parser(argparse.ArgumentParser):
    """Argument parser of every command: it raises `UserError` for mistakes and expands `~` to the home directory.

    A shell expands `~` only at the beginning of a word, so `--workdir=~/runs` and `--config.data.path=~/images` arrive
    unexpanded. Only paths begin with `~`.
    """

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        """Parses with `~` expanded; `parse_args` calls this too."""
        return super().parse_known_args(list(map(with_home, sys.argv[1:] if args is None else args)), namespace)

    def error(self, message: str) -> NoReturn:
        """Raises `UserError` with the message."""
        raise UserError(f"{message}; --help explains")


def with_home(argument: str) -> str:
    """Returns an argument with a leading `~` or `~user`, also of the value in `--KEY=VALUE`, expanded."""
    flag, equals, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
    return f"{flag}{equals}{os.path.expanduser(value)}"


def parse_arguments(parser: Parser, arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Returns the parser's flags, and the remaining arguments, such as `--config.KEY=VALUE`."""
    parser.epilog = "--config.KEY=VALUE sets any key of the config; focalnet_jax/config.py lists the keys"
    parser.usage = f"{parser.format_usage().removeprefix('usage: ').strip()} [--config.KEY=VALUE ...]"
    return parser.parse_known_args(arguments)


def make_script_parser(name: str, description: str) -> Parser:
    """Returns the parser of `python NAME.py`, which is `focalnet NAME` if it was called so."""
    prog = f"{CALLED_AS}{name}" if CALLED_AS == INSTALLED else f"python {name}.py"
    return Parser(prog=prog, description=description, allow_abbrev=False)


def make_parser(module: str, description: str) -> Parser:
    """Returns the parser of `python -m focalnet_jax.MODULE`, or of the package itself for ""."""
    return Parser(
        prog=f"{CALLED_AS}{module}".removesuffix("."),
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def add_weights_flags(parser: argparse.ArgumentParser) -> None:
    """Adds `--model`, `--option` and `--weights`, for information that a weights file does not contain."""
    parser.add_argument("--model", metavar="NAME", help="variant of the weights (default: recognised)")
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="KEY=true|false",
        help="use_postln or normalize_modulator, which cannot be recognised by shapes",
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
        help="which of several models: ema, a key or prefix such as teacher, or a file of a directory such as model_1",
    )


def check_number(flag: str, value: int | None, least: int, most: int | None = None) -> None:
    """Raises `UserError` if `value` is not within `least` to `most`; None, a flag that was not given, is accepted."""
    if value is not None and (value < least or (most is not None and value > most)):
        raise UserError(f"{flag} {value}: expected {least} {'or more' if most is None else f'to {most}'}")


def parse_size(flag: str, text: str | None, most: int | None = None) -> tuple[int, int] | None:
    """Returns (height, width) in pixels from `S` or `HEIGHTxWIDTH`, None for None; raises `UserError` otherwise."""
    if text is None:
        return None
    parts = text.lower().split("x")
    sides = [int(part) for part in parts if part.isdecimal() and len(part) < 10]
    if len(sides) != len(parts) or len(sides) > 2:
        raise UserError(f"{flag} {text}: expected the side of a square in pixels, or HEIGHTxWIDTH")
    for side in sides:
        check_number(flag, side, 1, most)
    return sides[0], sides[-1]


def parse_workdir(text: str) -> Path:
    """Returns the workdir as a path; raises `UserError` if it is empty or a URL."""
    if not text or "://" in text:
        raise UserError(f"--workdir {text!r}: expected a local or mounted directory")
    return Path(text)


def load_config(path: str, overrides: Sequence[str] = (), *, optional: Sequence[str] = ()) -> FrozenConfigDict:
    """Returns the frozen config of a recipe with overrides applied.

    Args:
      path: `FILE.py` or `FILE.py:VARIANT`.
      overrides: `--config.KEY=VALUE` arguments.
      optional: keys that need no value even if the recipe requires one.

    Raises:
      UserError: there is no such file or variant, a key is unknown (the message has the nearest), or a value has the
        wrong type.
    """
    file, variant = (path, "") if path.endswith(".py") else path.rsplit(":", 1) if ":" in path else (path, "")
    config = _read_config(_found(Path(file)), variant)
    named = [_override(config, key, text) for key, text in _split(overrides)]
    _prefer_named_durations(config, named)
    expand_paths(config)
    if config.continue_from is not None and config.init_from == REQUIRED:  # the continued run has its own
        config.init_from, config.init_head = None, "keep"
    check_values(config, optional)
    return FrozenConfigDict(config)


def named_keys(overrides: Sequence[str]) -> frozenset[str]:
    """Returns the keys set by `--config.KEY=VALUE` arguments."""
    return frozenset(key for key, _ in _split(overrides))


def _found(file: Path) -> Path:
    """Returns the file, or, if it is a missing configs/NAME.py, the recipe installed with the package."""
    installed = Path(focalnet_jax.__file__).parent / file
    return installed if file.parent == Path("configs") and not file.is_file() and installed.is_file() else file


def _read_config(file: Path, variant: str) -> ConfigDict:
    if not file.is_file():
        raise UserError(f"--config: there is no file {file}; expected FILE.py or FILE.py:VARIANT")
    spec = importlib.util.spec_from_file_location(f"config_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise UserError(f"--config: {file} is not a Python file; expected FILE.py or FILE.py:VARIANT")
    module = importlib.util.module_from_spec(spec)
    folder, before = str(file.resolve().parent), list(sys.path)
    if folder not in sys.path:  # a config may import its neighbours
        sys.path.insert(0, folder)
    try:
        spec.loader.exec_module(module)
        get_config = getattr(module, "get_config", None)
        config = get_config(variant) if get_config else None
    except UserError:
        raise
    except Exception as error:  # the user's Python may raise any type
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == file]
        line = error.lineno if isinstance(error, SyntaxError) else frames[-1].lineno if frames else "?"
        raise UserError(f"--config: {file}:{line} fails: {type(error).__name__}: {error}") from error
    finally:
        sys.path[:] = before
    if not isinstance(config, ConfigDict):
        raise UserError(f"--config: {file} has no function get_config(variant) that returns a config")
    missing = flatten(default_config(config.get("task", "classification"))).keys() - flatten(config).keys()
    if missing:
        raise UserError(f"--config: {file} lacks {', '.join(sorted(missing))}; start from default_config()")
    return config


def _split(overrides: Sequence[str]) -> Iterable[tuple[str, str]]:
    """Yields (key, value) of `--config.KEY=VALUE` and `--config.KEY VALUE` arguments."""
    rest = list(overrides)
    while rest:
        argument = rest.pop(0)
        key, equals, value = argument.partition("=")
        if not key.startswith("--config."):
            near = suggest(key, ["--config", "--workdir", "--checkpoint", "--help"])
            raise UserError(f"unknown argument {argument!r}; expected --config.KEY=VALUE.{near}")
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise UserError(f"{key} has no value; expected {key}=VALUE")
            value = rest.pop(0)
        yield key.removeprefix("--config."), value


def _override(config: ConfigDict, key: str, text: str) -> str:
    """Sets `config.key` to the value `text` spells, in the type the key has."""
    section, *rest = key.split(".")
    if section == "evaluations" and len(rest) == 2 and rest[0] not in config.evaluations:
        config.evaluations[rest[0]] = evaluation()
    known = flatten(config)
    if key not in known:
        below = [name for name in known if name.startswith(f"{key}.")]
        if below:
            raise UserError(f"{key} is a section of the config; set one of {', '.join(below)}")
        leaves = {name.rsplit(".", 1)[-1]: name for name in known}
        near = nearest(key, known) or [leaves[leaf] for leaf in nearest(key.rsplit(".", 1)[-1], leaves)]
        raise UserError(f"unknown config key {key!r}.{did_you_mean(near) or ' Known keys: ' + ', '.join(known)}")
    *parents, leaf = key.split(".")
    node = config
    for parent in parents:
        node = node[parent]
    kind = node.get_type(leaf)
    try:
        value = _literal(text)
        if text == "auto" and key in (*auto_keys(config), *BY_MACHINE):
            value = "auto" if kind is str else None
            node[leaf] = value
            return key
        needed = flatten(default_config(config.task)).get(key) is not None  # or `none` means: not set
        if kind is str and (value is not None or needed):
            value = text
        if (isinstance(value, bool) and kind in (int, float)) or (value is None and needed) or not _is_plain(value):
            raise TypeError
        node[leaf] = value
    except (TypeError, ValueError, OverflowError) as error:
        names = {int: "an integer", float: "a number", bool: "true or false", tuple: "a tuple", str: "a text"}
        expected = names.get(kind, "a value")
        if node[leaf] not in (None, (), "auto"):
            expected += f" such as {node[leaf]}"
        elif key in (checks := checks_of(config.task)):
            expected = checks[key][1]
        if key in auto_keys(config) and "auto" not in expected:
            expected += " or auto"
        raise UserError(f"--config.{key}={text}: expected {expected}") from error
    return key


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval({"true": "True", "false": "False", "none": "None"}.get(text, text))
    except (SyntaxError, ValueError):
        return text


def _is_plain(value: Any) -> bool:
    """Returns whether a config can hold a value: None, a bool, number or text, or a list or tuple of these."""
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def _prefer_named_durations(config: ConfigDict, named: Sequence[str]) -> None:
    """Unsets a duration of the config file if the command line sets it in the other unit (steps, epochs)."""
    for key in named:
        for unit, other in (("_steps", "_epochs"), ("_epochs", "_steps")):
            twin = key.removesuffix(unit) + other
            if key.endswith(unit) and twin not in named and twin in flatten(config):
                _override(config, twin, "none")
