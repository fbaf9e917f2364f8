"""Finds the class names that trainers store in weights files: in the saved object, or in safetensors metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

Palette = tuple[tuple[int, int, int], ...]  # red, green and blue of each class, from 0 to 255
ClassLists = Mapping[str, tuple[str, ...]]  # names in class order, by the name of their entry in a file

_KEYS = frozenset(
    {"classes", "class_names", "classnames", "class_labels", "label_names", "class_list"}
    | {"class_to_idx", "label2id", "label_to_idx", "label_to_id", "name_to_id"}
    | {"idx_to_class", "id2label", "idx_to_label", "id_to_label", "id_to_name"}
)


def class_names_at(key: str, value: Any) -> tuple[str, ...] | None:
    """Returns the class names in an entry of a file, in class order, or None if it contains no class names.

    Args:
      key: the last part of the entry's name, such as `classes` or `class_to_idx`.
      value: a list of names, or a dictionary from names to numbers or from numbers (integers or strings) to names.
    """
    if key.lower() not in _KEYS:
        return None
    if isinstance(value, list | tuple):
        return tuple(value) if value and all(isinstance(name, str) for name in value) else None
    if not isinstance(value, Mapping) or not value:
        return None
    if all(type(number) is int for number in value.values()):
        value = {number: name for name, number in value.items()} if len({*value.values()}) == len(value) else {}
    value = {str(number): name for number, name in value.items()}
    numbers = [str(number) for number in range(len(value))]
    if not value or value.keys() != set(numbers) or not all(isinstance(name, str) for name in value.values()):
        return None
    return tuple(value[number] for number in numbers)


def palette_at(key: str, value: Any) -> Palette | None:
    """Returns the colours of classes in the entry `key` of a file, or None if the entry is not a valid palette."""
    if str(key).lower() != "palette" or not isinstance(value, list | tuple) or not value:
        return None
    rows = [tuple(row) if isinstance(row, list | tuple) else () for row in value]
    valid = all(len(row) == 3 and all(type(part) is int and 0 <= part < 256 for part in row) for row in rows)
    return tuple(rows) if valid else None


def palette_of(palettes: Mapping[str, Palette], count: int) -> Palette | None:
    """Returns the palette for `count` classes in a file, or None if there is none or several differ."""
    fitting = {palette for palette in palettes.values() if len(palette) == count}
    return fitting.pop() if len(fitting) == 1 else None


def class_names_in_metadata(metadata: Mapping[str, str]) -> ClassLists:
    """Returns the class names in the metadata of a safetensors file, by key.

    The values of the metadata are JSON or names separated by commas.
    """
    found = {}
    for key, text in metadata.items():
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            value = [name.strip() for name in text.split(",")] if "," in text else None
        if (names := class_names_at(key, value)) is not None:
            found[key] = names
    return found


def class_names_of(lists: ClassLists, count: int) -> tuple[tuple[str, ...] | None, str]:
    """Selects the class names of a classifier with `count` outputs from the lists in a file.

    Lists of a different length belong to something else and are ignored.

    Returns:
      The class names, and a note for the user. If no list fits, the names are None and the note is "". If several
      lists fit but differ, the names are `()`, which means unknown, and the note names the lists.
    """
    placeholders = tuple(f"LABEL_{number}" for number in range(count))
    fitting = {place: names for place, names in lists.items() if len(names) == count and names != placeholders}
    if not fitting:
        return None, ""
    places = " and ".join(list(fitting)[:3])
    if len({*fitting.values()}) > 1:
        return (), f"{places} in the file give different names to its {count} classes: none of them is used"
    return next(iter(fitting.values())), f"class names from {places} in the file"
