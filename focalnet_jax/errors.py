"""How a user's mistake reaches the user: one line on stderr, exit code 2, no traceback."""

from __future__ import annotations

import argparse
import difflib
import logging
import sys
from collections.abc import Callable, Iterable

EXIT_FAILED = 1
EXIT_USER_MISTAKE = 2
EXIT_PREEMPTED = 42  # stopped by a signal, with a checkpoint written


class UserError(ValueError):
    """What was given, what was expected, what to do: one line, shown without a traceback."""


def suggest(given: str, valid: Iterable[str], count: int = 3) -> str:
    """` Did you mean 'a' or 'b'?` for the names in `valid` nearest to `given`, or an empty string."""
    near = difflib.get_close_matches(given, list(valid), n=count, cutoff=0.5)
    return f" Did you mean {' or '.join(map(repr, near))}?" if near else ""


def run_command(main: Callable[[list[str]], int | None]) -> None:
    """Run `main(arguments)` as a command line program and exit with its status."""
    logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax reports every step of a save as a warning
    try:
        status = main(sys.argv[1:]) or 0
    except UserError as error:
        sys.stdout.flush()
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        status = EXIT_USER_MISTAKE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130  # the shell's convention for SIGINT
    sys.exit(status)


def parse_arguments(parser: argparse.ArgumentParser, arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The parser's flags, and the `--config.KEY=VALUE` arguments it leaves over."""
    parser.epilog = "--config.KEY=VALUE sets any key of the config; the keys stand in focalnet_jax/config.py"
    parser.usage = f"{parser.format_usage().removeprefix('usage: ').strip()} [--config.KEY=VALUE ...]"
    return parser.parse_known_args(arguments)
