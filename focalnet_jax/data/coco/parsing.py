"""Parses COCO's JSON files `{"images": [...], "annotations": [...], "categories": [...]}` with little memory."""

from __future__ import annotations

import gc
import json
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from focalnet_jax.errors import RunFailedError, UserError

EXPECTED = 'a JSON file with "images", "annotations" and "categories", as COCO\'s instances_train2017.json'
_FIELDS = ("id", "image_id", "category_id", "bbox", "area", "iscrowd", "ignore", "segmentation")


@dataclass(frozen=True)
class Parsed:
    """The content of a COCO file, not checked.

    Attributes:
      images: the list "images"; expected are objects with id, file_name, height and width.
      annotations: a tuple (id, image_id, category_id, bbox, area, iscrowd, ignore, segmentation) per object, with None
        for missing entries. Polygons are a tuple of `array.array`, or a list as in the file if one is damaged.
      categories: the list "categories"; expected are objects with id and name.
    """

    images: list[Any]
    annotations: list[tuple[Any, ...]]
    categories: list[Any]


def parse_coco(content: bytes, name: str | Path, *, masks: bool = True) -> Parsed:
    """Parses the content of a COCO file.

    Args:
      content: the text.
      name: path of the file, for messages.
      masks: whether to keep polygons and run-length encodings, which need most of the memory.

    Raises:
      UserError: the text is not JSON, is cut short, or has another structure.
    """
    try:
        text = content.decode(json.detect_encoding(content))
        del content  # frees half a gigabyte if the caller keeps no reference
        with _without_garbage_collection():
            found = json.loads(text, object_hook=_compact if masks else _compact_without_masks)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        what = "is cut short" if _ends_early(error) else f"is not JSON ({' '.join(str(error).split())[:120]})"
        raise UserError(f"{name} {what}: copy it again; expected {EXPECTED}") from error
    except RecursionError as error:
        raise UserError(f"{name} has too many nested brackets; expected {EXPECTED}") from error
    parts = [found.get(part) if isinstance(found, dict) else None for part in ("images", "annotations", "categories")]
    for part, entries in zip(("images", "annotations", "categories"), parts, strict=True):
        if not isinstance(entries, list):
            held = f"an object with {ascii(list(found)[:8])[1:-1]}" if isinstance(found, dict) else "no object"
            raise UserError(f'{name} has no list "{part}"; it contains {held}: expected {EXPECTED}')
    annotations = [entry if isinstance(entry, tuple) else _other(entry, name) for entry in parts[1]]
    return Parsed(parts[0], annotations, parts[2])


def _ends_early(error: ValueError) -> bool:
    """Returns whether a text is cut short: the parser failed at its end, or in a string that does not end."""
    if not isinstance(error, json.JSONDecodeError) or not error.doc.strip():
        return False
    return error.msg.startswith("Unterminated string") or error.pos >= len(error.doc.rstrip()) - len("false")


def read_json(path: str | Path) -> bytes:
    """Returns the content of a JSON file.

    Raises:
      UserError: the file is missing, is a folder, or is not readable.
      RunFailedError: the storage fails.
    """
    try:
        return Path(path).read_bytes()
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        raise UserError(f"cannot read {path}: {error.strerror}; expected {EXPECTED}") from error
    except OSError as error:
        raise RunFailedError(f"cannot read {path}: {error.strerror}; start the command again") from error


def fields_of(annotation: Mapping[str, Any]) -> tuple[Any, ...]:
    """Returns the entries of an annotation in the order of `Parsed.annotations`."""
    return tuple(map(annotation.get, _FIELDS))


def as_entry(fields: Sequence[Any]) -> dict[str, Any]:
    """Converts a tuple of `Parsed.annotations` to the entry in a COCO file. Missing entries are left out."""
    entry = {title: value for title, value in zip(_FIELDS, fields, strict=True) if value is not None}
    if isinstance(entry.get("segmentation"), tuple):
        entry["segmentation"] = [polygon.tolist() for polygon in entry["segmentation"]]
    return entry


def _compact(entry: dict[str, Any]) -> Any:
    """Converts an annotation (an object with `image_id`) to a tuple, see `Parsed`. Returns other objects unchanged."""
    if "image_id" not in entry:
        return entry
    segments = entry.get("segmentation")
    if isinstance(segments, list):
        entry["segmentation"] = _arrays(segments)
    return fields_of(entry)


def _compact_without_masks(entry: dict[str, Any]) -> Any:
    if "image_id" not in entry:
        return entry
    entry.pop("segmentation", None)
    return fields_of(entry)


def _arrays(polygons: Sequence[Any]) -> Sequence[Any]:
    try:
        return tuple(array("d", polygon) for polygon in polygons)
    except (TypeError, OverflowError):  # damaged polygons, which `check_annotations` counts
        return polygons


def _other(entry: Any, name: str | Path) -> tuple[Any, ...]:
    if not isinstance(entry, dict):
        raise UserError(f'{name}: the list "annotations" contains {ascii(entry)[:80]}; expected objects')
    return fields_of(entry)


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Context manager that disables the garbage collector, which would visit millions of new objects repeatedly."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
