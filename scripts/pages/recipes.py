"""An mkdocs hook that inserts the docstrings and settings of the recipes in configs/ into docs/recipes.md."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from textwrap import wrap

from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent.parent
MARK = "*On GitHub, read their docstrings. The site that `make docs` builds lists the recipes and their settings here.*"
_FIELD = re.compile(r"^(Source|Variants|Command|Hardware|Target|Obtained)( \([^)]*\))?: ", re.MULTILINE)


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Returns the page; docs/recipes.md with the recipes inserted."""
    return markdown.replace(MARK, "\n".join(_recipes())) if page.file.src_uri == "recipes.md" else markdown


def _recipes() -> Iterator[str]:
    for path in sorted((ROOT / "configs").glob("*.py")):
        title, fields = described(path)
        yield f"## configs/{path.name}\n\n{_plain(title)}\n"
        commands, _, rest = fields.pop("Command").partition(" where ")
        lines = (wrap(command, 100, break_on_hyphens=False) for command in commands.split(", or "))
        yield "```\n" + "\n".join(" \\\n    ".join(parts) for parts in lines) + "\n```\n"
        if rest:
            yield f"where {_plain(rest)}\n"
        yield "| | |\n|---|---|"
        for name, text in fields.items():
            yield f"| {name} | {_plain(text)} |"
        yield "\nKeys that differ from their [defaults](settings.md):\n\n| key | value | default |\n|---|---|---|"
        for key, value, default in _set_by(path):
            yield f"| `{key}` | {value} | `{default!r}` |"
        yield ""


def described(path: Path) -> tuple[str, dict[str, str]]:
    """Returns the title of a recipe's docstring, and its fields by name, each without line breaks.

    Raises:
      ValueError: a field is missing.
    """
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    title, *parts = _FIELD.split(text)
    names, extras, values = parts[0::3], parts[1::3], parts[2::3]
    fields = {
        name + (extra or ""): " ".join(value.split()) for name, extra, value in zip(names, extras, values, strict=True)
    }
    hardware, cost, expense = fields.get("Hardware", "").partition(" Cost: ")
    missing = {"Source", "Variants", "Command", "Hardware", "Target", "Obtained"} - set(names)
    if missing or not cost:
        raise ValueError(f"{path} lacks {', '.join(sorted(missing)) or 'Cost'} in its docstring")
    ordered = {}
    for name, value in fields.items():
        ordered |= {"Hardware": hardware, "Cost": expense} if name == "Hardware" else {name: value}
    return " ".join(title.split()), ordered


def _set_by(path: Path) -> Iterator[tuple[str, str, object]]:
    """Yields the key, the recipe's value as a string, and the default for every key that the recipe changes."""
    from focalnet_jax.config import AUTO, REQUIRED, default_config, flatten
    from focalnet_jax.programs.config_files import load_config
    from focalnet_jax.settings.tasks import TASKS

    keys = [key for task in TASKS for key in flatten(default_config(task))]
    config = load_config(str(path), optional=keys)
    defaults = flatten(default_config(config.task))
    for key, value in flatten(config).items():
        if value != defaults[key]:
            chosen = {REQUIRED: "yours", None: "`auto`" if key in AUTO else "`None`"}
            yield key, chosen[value] if value in (REQUIRED, None) else f"`{value!r}`", defaults[key]


def _plain(text: str) -> str:
    """Returns the text with Markdown's special characters escaped."""
    return re.sub(r"([\\`*_{}\[\]<>#|])", r"\\\1", text)
