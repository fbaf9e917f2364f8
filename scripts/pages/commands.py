"""A hook of mkdocs: docs/commands.md gets what every program's --help prints."""

import contextlib
import importlib
import importlib.util
import io
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent.parent
MARK = "*On the site (`make docs`) every command is here, with what its `--help` prints.*"


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """The page with the commands in it."""
    return markdown.replace(MARK, "\n".join(_sections())) if page.file.src_uri == "commands.md" else markdown


def _sections() -> Iterator[str]:
    for command, main in commands():
        text = told(command, main)
        yield f"## {command}\n\n```text\n{text}```\n"
        words = re.search(r"\{([\w,]+)\}", text)
        for word in words[1].split(",") if words else ():
            more = told(command, main, word)
            if more != text:  # a command of its own, not a value
                yield f"### {command} {word}\n\n```text\n{more}```\n"


def commands() -> Iterator[tuple[str, Callable[[list[str]], int]]]:
    """Every program as it is typed, and its `main`: those at the root, then the package's modules that have one."""
    for name in ("train.py", "eval.py"):
        spec = importlib.util.spec_from_file_location(name.removesuffix(".py"), ROOT / name)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield f"python {name}", module.main
    for path in sorted((ROOT / "focalnet_jax").rglob("*.py")):
        if re.search(r"^def main\(arguments", path.read_text(), re.MULTILINE):
            module = path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
            yield f"python -m {module.removesuffix('.__main__')}", importlib.import_module(module).main


def told(command: str, main: Callable[[list[str]], int], *arguments: str) -> str:
    """What a program prints when it is given `arguments` and --help."""
    printed = io.StringIO()
    with (
        mock.patch.dict(os.environ, COLUMNS="100"),
        mock.patch.object(sys, "argv", [command]),
        contextlib.redirect_stdout(printed),
        contextlib.suppress(SystemExit),
    ):
        main([*arguments, "--help"])
    return printed.getvalue()
