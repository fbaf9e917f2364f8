"""An mkdocs hook that inserts the `--help` text of every command into docs/commands.md."""

import contextlib
import importlib
import importlib.util
import io
import os
import re
import sys
from collections.abc import Callable, Iterator
from unittest import mock

from mkdocs.structure.pages import Page

from focalnet_jax.programs.commands import COMMANDS

MARK = "*The site that `make docs` builds shows the `--help` text of every command here.*"


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Returns the page; docs/commands.md with the commands inserted."""
    return markdown.replace(MARK, "\n".join(_sections())) if page.file.src_uri == "commands.md" else markdown


def _sections() -> Iterator[str]:
    for command, main in commands():
        text = help_text(command, main)
        yield f"## {command}\n\n```text\n{text}```\n"
        words = re.search(r"\{([\w,]+)\}", text)
        for word in words[1].split(",") if words else ():
            more = help_text(command, main, word)
            if more != text:  # a subcommand, not a value
                yield f"### {command} {word}\n\n```text\n{more}```\n"


def commands() -> Iterator[tuple[str, Callable[[list[str]], int]]]:
    """Yields every command as a user types it, and its `main` function."""
    for name in COMMANDS:
        found = f"focalnet_jax.{name}"
        inside = importlib.util.find_spec(found).submodule_search_locations
        module = importlib.import_module(f"{found}.__main__" if inside else found)
        yield f"python {name}.py" if name in ("train", "eval") else f"python -m {found}", module.main
    yield "python -m focalnet_jax", importlib.import_module("focalnet_jax.__main__").main


def help_text(command: str, main: Callable[[list[str]], int], *arguments: str) -> str:
    """Returns what `main` prints for `arguments` and --help, with `command` as the name of the program."""
    printed = io.StringIO()
    with (
        mock.patch.dict(os.environ, COLUMNS="100"),
        mock.patch.object(sys, "argv", [command]),
        contextlib.redirect_stdout(printed),
        contextlib.suppress(SystemExit),
    ):
        main([*arguments, "--help"])
    return printed.getvalue()
