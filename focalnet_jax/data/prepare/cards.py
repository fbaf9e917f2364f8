"""Reads the files that describe a data set: the card README.md of the Hugging Face Hub, and lists of class names."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from focalnet_jax.data.class_files import read_classes
from focalnet_jax.data.prepare.patterns import expand_braces, matches
from focalnet_jax.errors import UserError

README = "README.md"
_DESCRIPTIONS = ("dataset_info.json", "dataset_infos.json", "_info.json", "info.json")
_LISTS = ("classes.txt", "classnames.txt")
CARD_FILES = (README, *_DESCRIPTIONS, *_LISTS)
"""Names of the files that are read, in order of preference."""

_MOST_SHARDS = 100_000
_MOST_BYTES = 2**24
_FRONT_MATTER = re.compile(r"\s*---[ \t]*\n(.*?)\n---[ \t]*(?:\n|$)", re.DOTALL)
# Keys of class names in a description that is not written by the `datasets` library.
_NAMES_KEYS = ("classes", "class_names", "classnames", "id2label", "label_names")


@dataclass(frozen=True)
class Subset:
    """A subset ("config") of a repository."""

    name: str
    patterns: tuple[tuple[str | None, str], ...]  # (split, pattern of files); None: file names contain the split
    default: bool = False

    def split_of(self, file: str) -> str | None:
        """Returns the split of a file; "" if its name contains the split, and None if the subset lacks the file."""
        return next((split or "" for split, pattern in self.patterns if matches(pattern, file)), None)


@dataclass(frozen=True)
class Card:
    """The description of a data set."""

    subsets: tuple[Subset, ...] = ()
    # Class names by (subset or "", column of labels or ""), and the file that contains them.
    names: Mapping[tuple[str, str], tuple[tuple[str, ...], str]] = field(default_factory=dict)
    shards: tuple[str, ...] = ()  # names of all shards, as listed in the _info.json of WebDataset shards
    notes: tuple[str, ...] = ()  # lines for the user, such as the files that cannot be read

    def class_names(self, columns: Iterable[str], subset: str = "") -> tuple[tuple[str, ...], str] | None:
        """Returns class names and the name of their file, or None if they are unknown or ambiguous.

        Args:
          columns: possible names of the column of labels, in order of preference.
          subset: name of the subset, or "" if it is unknown.
        """
        found = {column: names for (of, column), names in self.names.items() if not subset or of in ("", subset)}
        for column in columns:
            if column in found:
                return found[column]
        different = {names for names, _ in found.values()}
        return next(iter(found.values())) if len(different) == 1 else None


class _UnreadableError(Exception):
    """Raised if the content of a file of `CARD_FILES` cannot be read; the message is the end of a sentence."""


def read_card(folder: Path) -> Card:
    """Returns the description in the files `CARD_FILES` of a folder. Damaged files are ignored, with a note."""
    subsets: tuple[Subset, ...] = ()
    shards: tuple[str, ...] = ()
    names: dict[tuple[str, str], tuple[tuple[str, ...], str]] = {}
    notes = []
    for file in CARD_FILES:
        if not (folder / file).is_file():
            continue
        if file in _LISTS:
            try:
                found = {("", ""): read_classes(folder / file)}
            except UserError as error:
                notes.append(f"note: {file} is not used: {error}")
                continue
        else:
            try:
                content = _content(folder / file)
            except _UnreadableError as error:
                notes.append(f"note: {file} is not used: {folder / file} {error}")
                continue
            described = content.get("dataset_info", {}) if file == README else content
            subsets = subsets or (_subsets(content) if file == README else ())
            shards = shards or (_shards(content) if file != README else ())
            found = dict(_names_in(described))
        if not names:
            names = {key: (value, file) for key, value in found.items()}
        elif found and {value for value, _ in names.values()}.isdisjoint(found.values()):
            used = next(other for _, other in names.values())
            notes.append(f"note: {file} and {used} list different class names; those in {used} are used")
    return Card(subsets, names, shards, tuple(notes))


def _content(path: Path) -> dict[str, Any]:
    """Returns the content of a JSON file or of the YAML header of README.md; {} if it is no mapping."""
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise _UnreadableError(f"has more than {_MOST_BYTES >> 20} MB")
        text = path.read_text("utf-8-sig")
        if path.name != README:
            found = json.loads(text)
        else:
            import yaml

            header = _FRONT_MATTER.match(text)
            # All scalars are strings, because class names such as no and 1.0 must not become other types.
            found = yaml.load(header[1], Loader=getattr(yaml, "CBaseLoader", yaml.BaseLoader)) if header else {}
    except _UnreadableError:
        raise
    except Exception as error:  # PyYAML raises several types
        expected = "a YAML header" if path.name == README else "JSON"
        raise _UnreadableError(f"is unreadable; expected {expected}") from error
    return found if isinstance(found, dict) else {}


def _subsets(content: Mapping[str, Any]) -> tuple[Subset, ...]:
    """Returns the subsets in the header of README.md."""
    found = []
    for each in _list_of(content.get("configs")):
        if not isinstance(each, dict):
            continue
        files, folder = each.get("data_files"), each.get("data_dir")
        files = [{"path": f"{str(folder).strip('/')}/**"}] if files is None and folder else files
        patterns = []
        for entry in _list_of(files.items() if isinstance(files, dict) and "path" not in files else files):
            split, paths = entry if isinstance(entry, tuple) else (None, entry)
            if isinstance(paths, dict):
                split, paths = paths.get("split", split), paths.get("path")
            patterns += [(split, path) for path in _list_of(paths) if isinstance(path, str)]
        default = str(each.get("default", "")).lower() == "true"
        found.append(Subset(str(each.get("config_name", "default")), tuple(patterns), default))
    return tuple(found)


def _shards(content: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the names of the shards of all splits; a description has lists of names, or patterns with braces."""
    splits = content.get("splits")
    splits = [each for each in splits.values() if isinstance(each, dict)] if isinstance(splits, dict) else []
    listed = [each.get("filenames", each.get("filename")) for each in splits]
    names = [
        name for each in listed if isinstance(each, str | list) for name in _list_of(each) if isinstance(name, str)
    ]
    return tuple(itertools.islice((shard for name in names for shard in expand_braces(name)), _MOST_SHARDS))


def _list_of(value: Any) -> list[Any]:
    if value is None or value == "":
        return []
    return [value] if isinstance(value, str | dict) else list(value)


def _names_in(described: Any, subset: str = "") -> Iterator[tuple[tuple[str, str], tuple[str, ...]]]:
    """Yields ((subset, column), class names) of each column of labels in a description."""
    if isinstance(described, list):
        for each in described:
            yield from _names_in(each)
        return
    if not isinstance(described, dict):
        return
    subset = str(described.get("config_name", subset))
    features = described.get("features")
    if isinstance(features, dict):
        features = [{"name": name, "dtype": {"class_label": feature}} for name, feature in features.items()]
    for feature in features if isinstance(features, list) else ():
        kind = feature.get("dtype") if isinstance(feature, dict) else None
        names = _ordered(kind["class_label"].get("names")) if _is_label(kind) else None
        if names:
            yield (subset, str(feature.get("name", ""))), names
    for key in _NAMES_KEYS:
        if names := _ordered(described.get(key)):
            yield (subset, ""), names
    if features is None and not subset:  # dataset_infos.json contains one description per subset
        for name, each in described.items():
            if isinstance(each, dict) and "features" in each:
                yield from _names_in(each, name)


def _is_label(kind: Any) -> bool:
    return isinstance(kind, dict) and isinstance(kind.get("class_label"), dict)


def _ordered(names: Any) -> tuple[str, ...] | None:
    """Returns the class names in a list, or in a mapping with the keys 0, 1, ...; None for any other value."""
    if isinstance(names, dict):
        try:
            by_number = {int(number): name for number, name in names.items()}
        except ValueError:
            return None
        if sorted(by_number) != list(range(len(by_number))):
            return None
        names = [by_number[number] for number in range(len(by_number))]
    if not (isinstance(names, list) and names and all(isinstance(name, str) and name.strip() for name in names)):
        return None
    return tuple(name.strip() for name in names)
