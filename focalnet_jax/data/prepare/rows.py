"""Indexes a Parquet file with a column of images and a column of labels, like those of the Hugging Face Hub."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO

from focalnet_jax.data.class_lists import NUM_1K, class_list
from focalnet_jax.data.prepare.containers import GROWTH, GROWTH_BYTES, Container
from focalnet_jax.data.prepare.image_classes import (
    listed_synset,
    place_imagenet,
    place_labelled,
    proven_synset,
    synset_folder,
)
from focalnet_jax.data.prepare.index import EMPTY, GOOD, NO_LABEL, OUTSIDE, Claim, Index, Member
from focalnet_jax.data.prepare.labels import Labels, followed, is_imagenet_order, label_text, synsets_named
from focalnet_jax.data.prepare.naming import SPLITS, has_image_suffix
from focalnet_jax.data.split_names import SPLIT_NAMES
from focalnet_jax.errors import UserError

if TYPE_CHECKING:
    import pyarrow
    from pyarrow import parquet

_ROWS = 64  # number of rows read at a time
_IMAGE_NAMES = ("image", "img", "jpg", "png", "picture", "image_bytes", "bytes")
_LABEL_NAMES = ("label", "labels", "cls", "class", "target", "category", "synset", "wnid", "class_name", "class_id")
_PATH_NAMES = ("filename", "file_name", "path", "image_path", "file_path", "filepath", "file", "image_file_path")
_SPLIT_COLUMNS = ("split", "partition", "subset")
_MAGIC = {b"\xff\xd8": ".jpg", b"\x89PNG": ".png", b"GIF8": ".gif", b"BM": ".bmp", b"II*\0": ".tif", b"MM\0*": ".tif"}


def index_rows(container: Container, labels: Labels, spool: BinaryIO) -> Index:
    """Returns the index of a Parquet file, and writes its images to `spool`.

    Raises:
      UserError: the file is damaged, has no column of images or labels, or has unexpected class names.
    """
    with _opened(container) as file:
        image, label, names = find_columns(container, file.schema_arrow, labels)
        if container.imagenet and names and not labels.ordered:
            if is_imagenet_order(names[1:]):  # the first class is for the background
                labels = replace(labels, names=(names[0], *(synset for synset, _ in class_list(NUM_1K))))
            elif not is_imagenet_order(names):
                raise UserError(
                    f"{container.path}: the class names of column {label} are not those of ImageNet-1K in its order; "
                    "prepare it with the kind parquet, which keeps the class names of the file"
                )
        stated = bool(names)
        if names and labels.names and (labels.ordered or not container.imagenet):
            names = followed(names, labels.names)
            if names is None:
                raise UserError(other_names(container, label))
            labels = replace(labels, names=names)
        labels = replace(labels, names=labels.names or names or None)
        rows, seen = [], Counter()
        schema = file.schema_arrow
        others = (_text_column(schema, image, label, names) for names in (_PATH_NAMES, _SPLIT_COLUMNS))
        for path, content, raw, split in _rows(container, file, image, label, *others):
            rows.append((path, spool.tell() if content else -1, len(content), _suffix(content), raw, split))
            seen[path] += 1
            spool.write(content)
    members, claims = [], Counter()
    splits = _splits_of(container, [split for *_, split in rows])
    for number, ((path, offset, size, suffix, raw, _), split) in enumerate(zip(rows, splits, strict=True)):
        if not path or (seen[path] > 1 and not container.imagenet):  # no name, or a repeated name
            path = f"{PurePosixPath(container.path).stem}/{number:08d}{suffix}"
        elif not has_image_suffix(path):
            path += suffix
        name, why_not = labels.class_of(raw)
        parts = tuple(part for part in PurePosixPath(path.replace("\\", "/")).parts if part not in ("/", ".."))
        parts = parts or (PurePosixPath(container.path).stem, f"{number:08d}{suffix}")
        listed = listed_synset(labels, parts, split)
        if why_not in (GOOD, OUTSIDE):
            claim = Claim(label_text(raw), name, proven_synset(parts, listed, name), stated)
            claims[claim._replace(split=split) if split != container.split else claim] += 1
        file = "/".join(parts)
        if container.imagenet and why_not in (GOOD, NO_LABEL):
            candidates = [synsets_named(name) if name else None, synset_folder(parts), listed]
            name, file, why_not = place_imagenet(parts, candidates, test=split == "test")
        elif why_not == GOOD:
            name, file, why_not = place_labelled(name, parts)
        members.append(
            Member(str(number), offset, size, 0, name, SPLITS.index(split), file, why_not if offset >= 0 else EMPTY)
        )
    return Index.of(members, claims=claims)


def _splits_of(container: Container, stated: list[str]) -> list[str]:
    """Returns the split of each row.

    Args:
      container: the Parquet file.
      stated: values of a column such as `split`. If one of them is not the name of a split, all are ignored, and every
        row has the split of the file.

    Raises:
      UserError: the file is named after a different split.
    """
    split = container.split or "train"
    found = [SPLIT_NAMES.get(value.lower()) for value in stated]
    if not stated or None in found:
        return [split] * len(stated)
    if split != "train" and set(found) != {split}:
        raise UserError(
            f"{container.path} is named after {split}, but its split column contains {', '.join(sorted(set(stated)))}: "
            "rename the file, or remove the column"
        )
    return found


def other_names(container: Container, column: str = "of labels") -> str:
    """Returns the error message for a Parquet file whose class names do not match those of --classes."""
    return (
        f"{container.path}: the class names of column {column} are not those of --classes FILE; list the class names "
        "of the Parquet file, or omit --classes to keep its names and order"
    )


def _suffix(content: bytes) -> str:
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return ".webp"
    return next((suffix for magic, suffix in _MAGIC.items() if content.startswith(magic)), "")


def _arrow() -> Any:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise UserError("Parquet files need pyarrow: pip install 'focalnet_jax[parquet]'") from error
    return pyarrow, parquet


def _opened(container: Container) -> parquet.ParquetFile:
    pyarrow, parquet = _arrow()
    try:
        file = parquet.ParquetFile(container.path)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise UserError(
            f"{container.path} is damaged or not a Parquet file: {' '.join(str(error).split())[:200]}"
        ) from error
    groups = range(file.metadata.num_row_groups)
    unpacked = sum(file.metadata.row_group(number).total_byte_size for number in groups)
    if unpacked > GROWTH * container.size + GROWTH_BYTES:
        raise UserError(
            f"{container.path} unpacks to {unpacked:,} bytes, more than {GROWTH} times its size, but images do not "
            "compress that much: download it again, or unpack it yourself if you trust it"
        )
    return file


def _rows(
    container: Container, file: parquet.ParquetFile, image: str, label: str, path: str | None, split: str | None
) -> Iterator[tuple[str, bytes, Any, str]]:
    """Yields (path, bytes, label, split) of every row.

    Args:
      container: the container of `file`.
      file: the opened Parquet file.
      image: name of the image column.
      label: name of the label column.
      path: name of the column of file names, or None if it is missing.
      split: name of the column of splits, or None if it is missing.
    """
    pyarrow, _ = _arrow()
    columns = [image, label, *filter(None, (path, split))]
    try:
        for batch in file.iter_batches(batch_size=_ROWS, columns=columns, use_threads=False):
            found = {name: batch.column(batch.schema.get_field_index(name)).to_pylist() for name in columns}
            texts = [[text or "" for text in found[name]] if name else [""] * len(batch) for name in (path, split)]
            for held, raw, named, of in zip(found[image], found[label], *texts, strict=True):
                if isinstance(held, dict):
                    yield held.get("path") or named, held.get("bytes") or b"", raw, of
                else:
                    yield named, held or b"", raw, of
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        if isinstance(error, OSError) and error.errno is not None and not isinstance(error, pyarrow.ArrowException):
            raise UserError(f"cannot read {container.path}: {error.strerror}") from error
        raise UserError(
            f"{container.path} is damaged: {' '.join(str(error).split())[:200]}; download it again"
        ) from error


def _text_column(schema: pyarrow.Schema, image: str, label: str, names: Sequence[str]) -> str | None:
    """Returns the column of strings with the first of `names` that exists, or None if none exists.

    The columns of images and labels are ignored.
    """
    pyarrow, _ = _arrow()
    texts = (pyarrow.types.is_string, pyarrow.types.is_large_string)
    found = {
        field.name.lower(): field.name
        for field in schema
        if field.name not in (image, label) and any(is_text(field.type) for is_text in texts)
    }
    return next((found[name] for name in names if name in found), None)


def class_names_in(container: Container, labels: Labels) -> tuple[str, ...] | None:
    """Returns the class names in a Parquet file, or None if they are missing."""
    with _opened(container) as file:
        return find_columns(container, file.schema_arrow, labels)[2]


def has_unnamed_numbers(container: Container, labels: Labels) -> bool:
    """Returns whether a Parquet file contains numeric labels, but no class names."""
    pyarrow, _ = _arrow()
    with _opened(container) as file:
        _, label, names = find_columns(container, file.schema_arrow, labels)
        kind = file.schema_arrow.field(label).type
        return not names and (pyarrow.types.is_integer(kind) or pyarrow.types.is_floating(kind))


def find_columns(
    container: Container, schema: pyarrow.Schema, labels: Labels
) -> tuple[str, str, tuple[str, ...] | None]:
    """Returns the names of the image and label columns, and the class names in the file, or None if they are missing.

    Raises:
      UserError: a column is missing, ambiguous or of the wrong type.
    """
    pyarrow, _ = _arrow()
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
    label = _choose(container, "label", labels.label_column, typed or named, _LABEL_NAMES, schema)
    _check_types(pyarrow, container, image, schema.field(image).type, label, schema.field(label).type)
    names = described.get(label, {}).get("names") if isinstance(described.get(label), dict) else None
    if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        names = None
    return image, label, tuple(names) if names else None


def _check_types(
    pyarrow: Any, container: Container, image: str, image_type: pyarrow.DataType, label: str, label_type: Any
) -> None:
    """Raises `UserError` if the image column does not contain images, or the label column not one label per row."""
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
            raise UserError(f"{container.path} has no column {given}: give one of {', '.join(schema.names)}")
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


def is_parquet(path: Path) -> bool:
    """Returns whether a file has the suffix of Parquet."""
    return path.suffix.lower() in (".parquet", ".pq")
