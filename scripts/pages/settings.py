"""An mkdocs hook that inserts the config keys of a run and the options of a model into docs/settings.md."""

import importlib
import inspect
import re
from collections.abc import Callable, Iterator

from mkdocs.structure.pages import Page

MARK = "*On GitHub, read the keys and options in the files above. The site that `make docs` builds lists them here.*"
_KEY = re.compile(r"#|$|(?:config|settings)\.\S+ = (?!ConfigDict\(\))")  # lines that set a key, and comments


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Returns the page; docs/settings.md with the keys and options inserted."""
    return markdown.replace(MARK, "\n".join(_sections())) if page.file.src_uri == "settings.md" else markdown


def _sections() -> Iterator[str]:
    from focalnet_jax.config import default_config
    from focalnet_jax.model.variants import FocalNetConfig
    from focalnet_jax.settings import checks_of
    from focalnet_jax.settings.evaluations import evaluation
    from focalnet_jax.settings.tasks import TASKS

    fields = inspect.getsource(FocalNetConfig).partition('"""\n\n')[2].partition("\n\n    def")[0]
    yield f"```python\n{inspect.cleandoc(fields)}\n```\n"
    yield f"## Keys of every run\n\n```python\n{_keys(default_config)}\n```\n"
    for task in TASKS:
        keys = _keys(importlib.import_module(f"focalnet_jax.settings.{task}").add_keys)
        yield f"## Keys of {task}\n\n```python\n{keys}\n```\n"
    keys = _keys(evaluation).replace("settings.", "config.evaluations.NAME.")
    yield f"## Keys of a further evaluation\n\n```python\n{keys}\n```\n"
    yield "## Accepted values\n\n| key | values |\n|---|---|"
    checks = {key: expected for task in TASKS for key, (_, expected) in checks_of(task).items()}
    for key, expected in checks.items():
        text = re.sub(r"([*_<>|])", r"\\\1", expected)
        yield f"| `{key}` | {text} |"


def _keys(function: Callable[..., object]) -> str:
    """Returns the lines of `function` that set a key, with the comments between them."""
    source = inspect.getsource(function)
    body = inspect.cleandoc("\n" + source[source.index('"""\n', source.index('"""') + 3) + 4 :])
    body = "\n".join(filter(_KEY.match, body.splitlines()))
    body = re.sub(r"config_dict\.placeholder\(\w+\)", "None", body.replace(" = task ", ' = "classification" '))
    return re.sub(r"\b(?:number|anything)\((\S+)\)", r"\1", body).strip()
