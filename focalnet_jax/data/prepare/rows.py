"""Indexes a Parquet file with a column of images and a column of labels, like those of the Hugging Face Hub."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO

from focalnet_jax.data.class_lists import NUM_1K, class_list
from focalnet_jax.data.prepare.columns import find_columns, import_arrow, text_column
from focalnet_jax.data.prepare.containers import GROWTH, GROWTH_BYTES, Container
from focalnet_jax.data.prepare.image_classes import (
    listed_synset,
    place_imagenet,
    place_labelled,
    proven_synset,
    synset_folder,
)
from focalnet_jax.data.prepare.index import EMPTY, GOOD, NO_LABEL, OUTSIDE, TEST, Claim, Index, Member
from focalnet_jax.data.prepare.labels import Labels, followed, is_imagenet_order, label_text, synsets_named
from focalnet_jax.data.prepare.naming import SPLITS, has_image_suffix
from focalnet_jax.data.split_names import SPLIT_NAMES
from focalnet_jax.errors import UserError

if TYPE_CHECKING:
    from pyarrow import parquet

_ROWS = 64  # number of rows read at a time
_BUFFER = 1 << 20  # bytes read at a time; by default, pyarrow reads all images of a row group into memory
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
        others = (text_column(schema, image, label, names) for names in (_PATH_NAMES, _SPLIT_COLUMNS))
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
        elif why_not == NO_LABEL and split == "test":
            why_not = TEST
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
        f"{container.path}: the class names of column {column} are not those of --classes FILE; give --classes with "
        "the names in the Parquet file, or omit --classes to keep its names and order"
    )


def _suffix(content: bytes) -> str:
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return ".webp"
    return next((suffix for magic, suffix in _MAGIC.items() if content.startswith(magic)), "")


def _opened(container: Container) -> parquet.ParquetFile:
    pyarrow, parquet = import_arrow()
    try:
        file = parquet.ParquetFile(container.path, buffer_size=_BUFFER, pre_buffer=False)
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
    pyarrow, _ = import_arrow()
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


def class_names_in(container: Container, labels: Labels) -> tuple[str, ...] | None:
    """Returns the class names in a Parquet file, or None if they are missing."""
    with _opened(container) as file:
        return find_columns(container, file.schema_arrow, labels)[2]


def label_column(container: Container, labels: Labels) -> str:
    """Returns the name of the column of labels in a Parquet file."""
    with _opened(container) as file:
        return find_columns(container, file.schema_arrow, labels)[1]


def has_unnamed_numbers(container: Container, labels: Labels) -> bool:
    """Returns whether a Parquet file contains numeric labels, but no class names."""
    pyarrow, _ = import_arrow()
    with _opened(container) as file:
        _, label, names = find_columns(container, file.schema_arrow, labels)
        kind = file.schema_arrow.field(label).type
        return not names and (pyarrow.types.is_integer(kind) or pyarrow.types.is_floating(kind))


def is_parquet(path: Path) -> bool:
    """Returns whether a file has the suffix of Parquet."""
    return path.suffix.lower() in (".parquet", ".pq")
