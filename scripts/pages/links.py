"""An mkdocs hook that adds pages from outside docs/, and replaces links to files that are not pages.

Pages link to files of the repository, such as ../launch/slurm.sh. The site does not contain these files and does not
know the address of the repository, so the hook replaces such a link with the file's path. A link to a missing file logs
a warning, which fails a strict build.
"""

import logging
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent.parent
PAGES = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changes.md"}
_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\((?![a-z]+:|#)([^)#\s]+)(#[^)\s]*)?\)")
_log = logging.getLogger("mkdocs.hooks")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Returns `files` with the pages at the root of the repository added."""
    for name, uri in PAGES.items():
        files.append(File.generated(config, uri, content=(ROOT / name).read_text()))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Returns the page, with paths instead of links to files that are not pages."""
    uri = page.file.src_uri
    return _LINK.sub(lambda link: _as_on_the_site(link, uri), markdown)


def _as_on_the_site(link: re.Match[str], uri: str) -> str:
    text, target, anchor = link[1], link[2], link[3] or ""
    stored = {page: name for name, page in PAGES.items()}.get(uri, f"docs/{uri}")
    path = posixpath.normpath(posixpath.join(posixpath.dirname(stored), target))
    if path.startswith("docs/") or path in PAGES:
        goal = PAGES.get(path, path.removeprefix("docs/"))
        return f"[{text}]({posixpath.relpath(goal, posixpath.dirname(uri) or '.')}{anchor})"
    if not (ROOT / path).exists():
        _log.warning("%s links to %s, which does not exist", stored, target)
    return f"`{path}`" if text.strip("`/") == path else f"{text} (`{path}`)"
