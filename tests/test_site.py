"""The site builds without warnings, loads nothing from other servers, and its generated pages are complete."""

import os
import re
import subprocess
import sys
from html import unescape
from pathlib import Path

import pytest

from focalnet_jax import list_models
from focalnet_jax.config import default_config, flatten
from focalnet_jax.settings.evaluations import evaluation
from scripts.pages.cards import PUBLISHED
from scripts.pages.recipes import described

pytestmark = pytest.mark.xdist_group("site")  # one process builds the site for all tests


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)]
    env = os.environ | {"NO_MKDOCS_2_WARNING": "1"}  # hides an advertisement of the theme's authors
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    # Any other message of mkdocs is a mistake, such as a page without a link to it.
    known = ("Building documentation to directory", "Documentation built in", "Cleaning site directory")
    assert all(any(text in line for text in known) for line in done.stderr.splitlines()), done.stderr
    return out


def read(site, page):
    """Returns the text of a page without HTML tags."""
    return unescape(re.sub(r"<[^>]+>", "", (site / page / "index.html").read_text()))


def test_every_page_of_docs_is_in_the_navigation_and_on_the_site(site):
    home = (site / "index.html").read_text()
    for path in Path("docs").rglob("*.md"):
        page = path.relative_to("docs").with_suffix("").as_posix()
        assert page == "index" or f'href="{page}/"' in home, path
        assert (site / ("" if page == "index" else page) / "index.html").is_file()
    assert {"contributing", "changes"} <= {path.name for path in site.iterdir()}


def test_nothing_is_fetched_from_elsewhere(site):
    for path in site.rglob("*.html"):
        fetched = re.findall(
            r'<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)="?((?:https?:)?//[^" >]+)', path.read_text()
        )
        assert not fetched, path
    assert not re.search(r"@import|url\(.?(https?:)?//", Path("docs/stylesheets/site.css").read_text())


def test_no_mark_is_left_where_a_page_is_filled_in(site):
    assert not [path for path in site.rglob("*.html") if "The site that <code>make docs" in path.read_text()]


@pytest.mark.parametrize("name", list_models())
def test_every_variant_has_a_card_with_what_was_published_and_verified(site, name):
    text = read(site, f"models/{name}")
    assert f'create_model("{name}"' in text
    assert (f"{PUBLISHED[name]['top1']} %" if "top1" in PUBLISHED[name] else "published top-1none") in re.sub(
        r"\n", "", text
    )
    compared = re.findall(r"\n(.*\b" + name.removeprefix("focalnet_") + r"\b.*, (?:small|full size))\n", text)
    assert compared, "docs/parity.md has no row of it"
    assert name in read(site, "models")


def test_the_recipes_target_is_what_was_published():
    target = next(text for field, text in described(Path("configs/imagenet1k.py"))[1].items() if "Target" in field)
    assert sorted(map(float, re.findall(r"\d\d\.\d", target))) == sorted(
        figures["top1"] for figures in PUBLISHED.values() if "top1" in figures
    )


def test_recipes_and_settings_are_all_there(site):
    recipes, settings = read(site, "recipes"), read(site, "settings")
    for path in Path("configs").glob("*.py"):
        assert f"configs/{path.name}" in recipes
    config = default_config()
    options = config.model.keys()
    config.evaluations.NAME = evaluation()
    for key in flatten(config):
        shown = key.removeprefix("model.") if key.removeprefix("model.") in options else f"config.{key} ="
        assert shown in settings, key


def test_every_command_is_there_with_its_flags(site):
    text = read(site, "commands")
    for path in [Path("train.py"), Path("eval.py"), *Path("focalnet_jax").rglob("*.py")]:
        flags = re.findall(r'add_argument\(\s*"(--[\w-]+)"', path.read_text())
        assert all(flag in text for flag in flags), path
    for module in re.findall(
        r'make_parser\("(\w[\w.]*)"', "".join(p.read_text() for p in Path("focalnet_jax").rglob("*.py"))
    ):
        assert f"usage: python -m focalnet_jax.{module} " in text, module


def test_the_public_interface_is_described(site):
    text = read(site, "api/model") + read(site, "api/convert")
    for name in ("create_model", "list_models", "load_model", "summarize", "FocalNet", "FocalNetConfig"):
        assert name in text
    assert "Returns a FocalNet with randomly initialised or with pretrained parameters." in text


def test_links_lead_somewhere_in_plain_markdown_too():
    for page in [Path("README.md"), Path("CONTRIBUTING.md"), *Path("docs").rglob("*.md"), Path("notebooks/README.md")]:
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
            if target.startswith("http"):
                continue
            path, _, anchor = target.partition("#")
            file = page.parent / path if path else page
            assert file.exists(), f"{page}: {target}"
            assert not anchor or anchor in headings(file), f"{page}: {target}"


def headings(page):
    """Returns the anchors that GitHub generates for the headings of a page."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_a_link_out_of_docs_is_a_path_and_one_to_nothing_fails_the_build(caplog):
    from types import SimpleNamespace

    from scripts.pages.links import on_page_markdown

    page = SimpleNamespace(file=SimpleNamespace(src_uri="scale.md"))
    assert on_page_markdown("[launch/slurm.sh](../launch/slurm.sh)", page) == "`launch/slurm.sh`"
    assert on_page_markdown("[it](../CONTRIBUTING.md#habits)", page) == "[it](contributing.md#habits)"
    assert on_page_markdown("[data](data.md#speed)", page) == "[data](data.md#speed)"
    on_page_markdown("[gone](../launch/gone.sh)", page)
    assert "which does not exist" in caplog.text
