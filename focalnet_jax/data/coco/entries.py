"""Checks the images and classes of a COCO file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from focalnet_jax.errors import UserError, abbreviated


@dataclass(frozen=True)
class Images:
    """The images of a file, in the order of the file.

    Attributes:
      ids: ids of the images, `[n]` int64.
      sizes: height and width in pixels, `[n, 2]` int32.
      names: file names.
    """

    ids: np.ndarray
    sizes: np.ndarray
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def entry(self, place: int) -> dict[str, Any]:
        """Returns the entry of an image in a COCO file."""
        height, width = self.sizes[place].tolist()
        return {"id": int(self.ids[place]), "file_name": self.names[place], "height": height, "width": width}


@dataclass(frozen=True)
class Categories:
    """The classes of a file, in the order of the file. A class number is an index in this order.

    Attributes:
      ids: ids in the file.
      names: names of the classes.
    """

    ids: tuple[int, ...]
    names: tuple[str, ...]

    def entries(self) -> list[dict[str, Any]]:
        """Returns the entries of the classes in a COCO file."""
        return [{"id": number, "name": name} for number, name in zip(self.ids, self.names, strict=True)]


def check_images(entries: Sequence[Any], name: str) -> Images:
    """Returns the images of a file.

    Args:
      entries: the list "images" of the file.
      name: path of the file, for messages.

    Raises:
      UserError: there are no images, an id, name or size is missing or invalid, or ids are repeated.
    """
    if not entries:
        raise UserError(f'{name} has no images: the list "images" is empty')
    for place, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise UserError(f'{name}: the list "images" contains {_shown(entry)}; expected objects')
        _check_id(entry.get("id"), f"image number {place}", name)
        if not _is_text(entry.get("file_name")):
            raise UserError(f"{name}: image {entry['id']} has no file_name; expected the name of its file")
        if not all(map(_is_side, (entry.get("height"), entry.get("width")))):
            raise UserError(
                f"{name}: image {entry['id']} ({entry['file_name'][:80]}) has the height "
                f"{_shown(entry.get('height'))} and the width {_shown(entry.get('width'))}; expected positive integers"
            )
    _refuse_repeated([entry["id"] for entry in entries], "ids", "images", name)
    return Images(
        np.array([entry["id"] for entry in entries], np.int64),
        np.array([(entry["height"], entry["width"]) for entry in entries], np.int32),
        tuple(entry["file_name"] for entry in entries),
    )


def check_categories(entries: Sequence[Any], name: str) -> Categories:
    """Returns the classes of a file.

    Args:
      entries: the list "categories" of the file.
      name: path of the file, for messages.

    Raises:
      UserError: there are no classes, or ids or names are missing, invalid or repeated.
    """
    if not entries:
        raise UserError(f'{name} has no classes: the list "categories" is empty')
    for place, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise UserError(f'{name}: the list "categories" contains {_shown(entry)}; expected objects')
        _check_id(entry.get("id"), f"category number {place}", name)
        if not _is_text(entry.get("name")):
            raise UserError(f"{name}: category {entry['id']} has no name; expected the name of the class")
    ids, names = [entry["id"] for entry in entries], [entry["name"].strip() for entry in entries]
    _refuse_repeated(ids, "ids", "categories", name)
    _refuse_repeated(names, "names", "categories", name)
    return Categories(tuple(ids), tuple(names))


def _is_text(value: Any) -> bool:
    """Returns whether a value is a string that can name a file or class: not blank, without null, valid UTF-8."""
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:  # a lone surrogate
        return False
    return True


def _shown(value: Any) -> str:
    """Returns the first 80 characters of a value, in ASCII, for messages."""
    return ascii(value)[:80]


def _is_side(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value < 2**31 and value == int(value)


def _check_id(value: Any, what: str, name: str) -> None:
    if type(value) is not int or not 0 <= value < 2**63:
        stated = "no id" if value is None else f"the id {_shown(value)}"
        raise UserError(f"{name}: {what} has {stated}; expected an integer of at least 0")


def _refuse_repeated(values: Sequence[Any], what: str, kind: str, name: str) -> None:
    if len(set(values)) < len(values):
        seen: set[Any] = set()
        repeated = [str(value) for value in values if value in seen or seen.add(value)]
        raise UserError(f"{name}: {what} of {kind} occur several times: {abbreviated(repeated)}; make them unique")
