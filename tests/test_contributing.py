"""CONTRIBUTING names files that exist, the Makefile lists its targets, and `make check` covers every folder."""

import re
import subprocess
from pathlib import Path

PACKAGE = Path("focalnet_jax")
CHECKED = [Path(line) for line in Path("tests/check.txt").read_text().split()]


def test_every_target_is_listed_by_make_help_and_in_the_docs():
    makefile = Path("Makefile").read_text()
    targets = set(re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[1].split())
    assert targets == set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    listed = subprocess.run(["make", "--no-print-directory", "help"], capture_output=True, text=True, check=True).stdout
    assert set(re.findall(r"^make (\S+) +\w", listed, re.MULTILINE)) == targets
    assert set(re.findall(r"`make ([a-z-]+)`", Path("docs/commands.md").read_text())) == targets


def test_the_quick_part_covers_every_folder():
    assert all(path.is_file() for path in CHECKED)
    assert sorted(set(CHECKED)) == CHECKED
    assert {path.parent for path in CHECKED} == {path.parent for path in Path("tests").rglob("test_*.py")}


def test_the_files_that_contributing_names_exist():
    text = Path("CONTRIBUTING.md").read_text().partition("| to change |")[2].partition("## Habits")[0]
    named = {name for name in re.findall(r"`([\w./]+)`", text) if "/" in name or name.endswith(".py")}
    assert len(named) > 20
    for name in named - {"tasks/NAME/", "settings/NAME.py", "kind.py", "__main__.py"}:
        assert (PACKAGE / name).exists() or Path(name).exists(), name


def test_contributing_names_every_folder():
    tree = Path("CONTRIBUTING.md").read_text().partition("```\ntrain.py")[2].partition("```")[0]
    folders = [path.name for path in PACKAGE.iterdir() if path.is_dir() and (path / "__init__.py").is_file()]
    assert not [name for name in folders if not re.search(rf"\b{name}/", tree)]
