"""The trainer is independent of the task: it names no label, class or accuracy, and folders import one way."""

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from focalnet_jax.config import flatten
from focalnet_jax.settings import classification

PACKAGE = Path("focalnet_jax")
FREE = ("training", "checkpoint", "aot", "report", "sweep")
# Words that only a task may use; Python's keyword `class` is not an identifier.
WORDS = re.compile(r"labels?|class(es)?|top[15]|top-[15]|accurac(y|ies)|masks?|box(es)?|captions?")
# In every task, the mask of a batch marks padding; these labels belong to XLA and matplotlib.
OTHERS = {
    "aot/bundles.py": {"label"},
    "aot/compilation.py": {"mask"},
    "report/page.py": {"label"},
    "training/first_images.py": {"mask"},
}
# A folder imports only from folders before it. Folders in the same tuple do not import each other.
ORDER = (
    ("errors",), ("settings", "system", "hub"), ("storage",), ("parameters",), ("distributed",), ("ops",), ("model",),
    ("config",), ("data", "checkpoint"), ("convert",), ("tasks",), ("inference",), ("visualize",), ("training",),
)  # fmt: skip


def files(folder):
    return sorted((PACKAGE / folder).rglob("*.py"))


def words_of(path):
    """Returns the identifiers of a module, and the words in its strings."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.arg) or (isinstance(node, ast.keyword) and node.arg):
            yield node.arg
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from re.findall(r"[A-Za-z_][\w-]*", node.value)


@pytest.mark.parametrize("path", [path for folder in FREE for path in files(folder)], ids=str)
def test_the_trainer_and_its_reports_name_nothing_of_a_task(path):
    allowed = OTHERS.get(str(path.relative_to(PACKAGE)), set())
    parts = {part for word in words_of(path) for part in (word, *word.split("_"))}
    assert not {part for part in parts if WORDS.fullmatch(part.lower())} - allowed


@pytest.mark.parametrize("path", [path for folder in FREE for path in files(folder)], ids=str)
def test_the_trainer_and_its_reports_read_no_key_of_a_task(path):
    config = ConfigDict({"model": {}, "data": {}})
    classification.add_keys(config)
    own = flatten(config).keys()
    assert "data.held_out" in own
    tree = ast.parse(path.read_text())
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    read = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert not {key for key in own if any(re.search(rf"\bconfig\.{re.escape(key)}$", each) for each in read)}
    assert not {key for key in own if any(re.search(rf"(^|\s){re.escape(key)}\b", each) for each in texts)}


@pytest.mark.parametrize("place", range(len(ORDER)))
def test_folders_import_one_way(place):
    later = {name for names in ORDER[place:] for name in names}
    for name in ORDER[place]:
        for path in [PACKAGE / f"{name}.py"] if (PACKAGE / f"{name}.py").exists() else files(name):
            for imported in imports_of(path):
                parts = imported.split(".")
                if parts[0] == "focalnet_jax" and len(parts) > 1 and parts[1] != name:
                    assert parts[1] not in later - {name}, f"{path} imports {imported}"


def imports_of(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("folder", ["data", "aot", "report", "settings"])
def test_files_of_a_folder_import_one_way(folder):
    paths = {".".join(path.with_suffix("").parts).removesuffix(".__init__"): path for path in files(folder)}
    graph = {}
    for name, path in paths.items():
        # In `from package import name`, the name may be a module or an object in the package.
        nearest = {
            next((part for part in (found, found.rpartition(".")[0]) if part in paths), "")
            for found in imports_of(path)
        }
        graph[name] = nearest - {"", name}
    assert any(graph.values())
    TopologicalSorter(graph).prepare()  # raises CycleError


def test_few_files_lie_at_the_packages_root():
    assert len(list(PACKAGE.glob("*.py"))) <= 11
