"""A hook of mkdocs: inserts the config keys of a run and the options of a model into docs/settings.md."""

import inspect
import re
from collections.abc import Iterator

from mkdocs.structure.pages import Page

MARK = "*On the site (`make docs`) the keys and the options are here, from these two files.*"
_SECTION = re.compile(r"^config\.\w+ = ConfigDict\(\)\n", re.MULTILINE)
_LOOP = re.compile(r"^for name in .*\n(?: .*\n)*", re.MULTILINE)  # the loop over a model's options


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Returns docs/settings.md with the keys."""
    return markdown.replace(MARK, "\n".join(_sections())) if page.file.src_uri == "settings.md" else markdown


def _sections() -> Iterator[str]:
    from focalnet_jax.config import default_config
    from focalnet_jax.model.variants import FocalNetConfig
    from focalnet_jax.settings.checks import CHECKS

    body = inspect.cleandoc("\n" + inspect.getsource(default_config).partition('"""\n')[2].partition("    return")[0])
    body = re.sub(r"config_dict\.placeholder\(\w+\)", "None", _SECTION.sub("", _LOOP.sub("", body.lstrip() + "\n")))
    body = re.sub(r"_(?:number|size)\((\S+)\)", r"\1", body)
    yield f"## Keys of a run\n\n```python\n{body.removeprefix('config = ConfigDict()').strip()}\n```\n"
    fields = inspect.getsource(FocalNetConfig).partition('"""\n\n')[2].partition("\n\n    def")[0]
    yield f"## Options of a model\n\n```python\n{inspect.cleandoc(fields)}\n```\n"
    yield "## Accepted values\n\n| key | values |\n|---|---|"
    for key, (_, expected) in CHECKS.items():
        text = re.sub(r"([*_<>|])", r"\\\1", expected)
        yield f"| `{key}` | {text} |"
