"""Finds the columns of images, labels and names in a Parquet file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from focalnet_jax.data.prepare.containers import Container
from focalnet_jax.data.prepare.labels import Labels
from focalnet_jax.errors import UserError, suggest

if TYPE_CHECKING:
    import pyarrow

_IMAGE_NAMES = ("image", "img", "jpg", "png", "picture", "image_bytes", "bytes")
_LABEL_NAMES = ("label", "labels", "cls", "class", "target", "category", "synset", "wnid", "class_name", "class_id")


def import_arrow() -> Any:
    """Returns the modules pyarrow and pyarrow.parquet; raises `UserError` with the install command if missing."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise UserError("Parquet files need pyarrow: pip install 'focalnet_jax[parquet]'") from error
    return pyarrow, parquet


def find_columns(
    container: Container, schema: pyarrow.Schema, labels: Labels
) -> tuple[str, str, tuple[str, ...] | None]:
    """Returns the names of the image and label columns, and the class names in the file, or None if they are missing.

    Raises:
      UserError: a column is missing, ambiguous or of the wrong type.
    """
    pyarrow, _ = import_arrow()
    described = _described(schema)
    kinds = {name: feature.get("_type") for name, feature in described.items() if isinstance(feature, dict)}
    images = [field.name for field in schema if _holds_images(pyarrow, field.type)]
    typed = [name for name in images if kinds.get(name) == "Image"]
    image = _choose(container, "image", labels.image_column, typed or images, _IMAGE_NAMES, schema)
    plain = [
        field.name
        for field in schema
        if pyarrow.types.is_integer(field.type)
        or pyarrow.types.is_string(field.type)
        or pyarrow.types.is_large_string(field.type)
        or pyarrow.types.is_dictionary(field.type)
    ]
    typed = [name for name in plain if kinds.get(name) == "ClassLabel"]
    named = [name for name in plain if name.lower() in _LABEL_NAMES]
    if not (labels.label_column or typed or named):
        raise UserError(_without_labels(container, schema, plain))
    label = _choose(container, "label", labels.label_column, typed or named, _LABEL_NAMES, schema)
    _check_types(pyarrow, container, image, schema.field(image).type, label, schema.field(label).type)
    names = described.get(label, {}).get("names") if isinstance(described.get(label), dict) else None
    if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        names = None
    return image, label, tuple(names) if names else None


def _without_labels(container: Container, schema: pyarrow.Schema, plain: Sequence[str]) -> str:
    """Returns the error message for a file in which no column is certain to contain labels.

    Args:
      container: the Parquet file.
      schema: its columns.
      plain: columns of integers and strings.
    """
    others = [field for field in schema if field.name.lower() in _LABEL_NAMES]
    if others:
        pyarrow, _ = import_arrow()
        name, kind = others[0].name, others[0].type
        usable = pyarrow.types.is_floating(kind) or pyarrow.types.is_boolean(kind)
        use = f"--label-column {name} to use it anyway, or another of" if usable else "--label-column NAME, one of"
        return (
            f"{container.path}: column {name} has type {kind}; expected integers or strings; give {use} "
            f"{', '.join(schema.names)}"
        )
    similar = [name for name in plain if not set(name.lower().split("_")).isdisjoint(_LABEL_NAMES)]
    many = "several columns" if len(similar) > 1 else "only column" if similar else "no column"
    listed = f" {', '.join(similar)}" if similar else ""
    return (
        f"{container.path}: {many}{listed} may contain labels; give --label-column NAME, one of "
        f"{', '.join(schema.names)}"
    )


def _check_types(
    pyarrow: Any, container: Container, image: str, image_type: pyarrow.DataType, label: str, label_type: Any
) -> None:
    """Raises `UserError` unless the image column has images, and the label column one number or string per row."""
    if not _holds_images(pyarrow, image_type):
        raise UserError(
            f"{container.path}: column {image} has type {image_type}; expected encoded images, or a struct with bytes"
        )
    types = pyarrow.types
    kind = label_type.value_type if types.is_dictionary(label_type) else label_type
    accepted = (types.is_integer, types.is_string, types.is_large_string, types.is_floating, types.is_boolean)
    if not any(is_kind(kind) for is_kind in accepted):
        raise UserError(
            f"{container.path}: column {label} has type {label_type}; expected one label per row, a number or string"
        )


def _holds_images(pyarrow: Any, kind: pyarrow.DataType) -> bool:
    types = pyarrow.types
    if types.is_struct(kind):
        fields = {field.name: field.type for field in kind}
        path, kind = fields.get("path", pyarrow.null()), fields.get("bytes", pyarrow.string())
        if not (types.is_null(path) or types.is_string(path) or types.is_large_string(path)):
            return False
        if types.is_null(kind):  # no row has bytes
            return True
    return types.is_binary(kind) or types.is_large_binary(kind)


def _described(schema: pyarrow.Schema) -> dict[str, Any]:
    """Returns the features of the columns from the metadata of the `datasets` library."""
    try:
        found = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _choose(
    container: Container, role: str, given: str | None, found: list[str], usual: tuple[str, ...], schema: pyarrow.Schema
) -> str:
    if given:
        if given not in schema.names:
            raise UserError(
                f"{container.path} has no column {given}: give one of {', '.join(schema.names)}."
                f"{suggest(given, schema.names)}"
            )
        return given
    best = [name for name in found if name.lower() in usual] or found
    if len(best) > 1 and role == "image":
        best = [name for name in best if name.lower() == "image"] or best
    if len(best) != 1:
        raise UserError(
            f"{container.path}: {'several columns' if best else 'no column'} may contain {role}s"
            f"{f' ({chr(44).join(best)})' if best else ''}; give --{role}-column NAME, one of {', '.join(schema.names)}"
        )
    return best[0]


def text_column(schema: pyarrow.Schema, image: str, label: str, names: Sequence[str]) -> str | None:
    """Returns the name of the string column that comes first in `names`, ignoring case, or None if there is none.

    The columns of images and labels are ignored.
    """
    pyarrow, _ = import_arrow()
    texts = (pyarrow.types.is_string, pyarrow.types.is_large_string)
    found = {
        field.name.lower(): field.name
        for field in schema
        if field.name not in (image, label) and any(is_text(field.type) for is_text in texts)
    }
    return next((found[name] for name in names if name in found), None)
