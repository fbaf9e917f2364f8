"""Reads data sets of tensorflow-datasets (TFDS) that are stored as ArrayRecord, without TensorFlow."""

from __future__ import annotations

import contextlib
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader

from focalnet_jax.data.card import CARD, DESCRIPTION, read_card
from focalnet_jax.data.decode import Picture, UnreadableImageError
from focalnet_jax.data.source import Label, fingerprint_of
from focalnet_jax.data.staged import need_shards, staged_data_set
from focalnet_jax.errors import UserError
from focalnet_jax.storage.address import is_bucket
from focalnet_jax.storage.cached import CACHE, in_words_of

_LABELS = ("label", "real_label")  # ImageNet-ReaL has several labels per image, `real_label`
_MOST_LABELS = 32  # per image


class TfdsSource:
    """A split of a TFDS data set, or a slice such as `train[:90%]` or `train[1000:]`.

    Args:
      path: directory of a data set, such as one written by `python -m focalnet_jax.data.prepare`, or its parent
        directory; or the name of a data set that is prepared in TFDS's directory (`TFDS_DATA_DIR`). Either directory
        may be in a bucket, gs://; each file is then copied to this host, and is read as soon as it is complete.
      split: name of the split, or a slice of the split.
      cache: folder for local copies of data in buckets.

    Raises:
      UserError: the data set or split does not exist, is damaged, has no images or labels, or is stored as TFRecord.
    """

    def __init__(self, path: str | None, split: str, cache: str = CACHE):
        if not path:
            raise UserError("data.source=tfds needs data.path: give a prepared directory or the name of a data set")
        self._copy = staged_data_set(path, cache) if is_bucket(path) else None
        with contextlib.nullcontext() if self._copy is None else in_words_of(self._copy):
            self._open(path, open_builder(path if self._copy is None else str(self._copy.folder)), split)

    def _open(self, path: str, builder: tfds.core.DatasetBuilder, split: str) -> None:
        features = builder.info.features
        labels = [key for key in _LABELS if key in features]
        if "image" not in features or not labels:
            raise UserError(f"{path} has the features {', '.join(features)}; expected image and {' or '.join(_LABELS)}")
        self._label_key = labels[0]
        label = features[self._label_key]
        self._many = hasattr(label, "feature")  # a sequence of labels
        label = label.feature if self._many else label
        if not getattr(label, "num_classes", None):
            raise UserError(f"the feature {self._label_key} of {path} states no classes; expected a ClassLabel")
        self.class_names = tuple(label.names)
        if builder.info.file_format is not tfds.core.FileFormat.ARRAY_RECORD:
            raise UserError(
                f"{path} is stored as {builder.info.file_format.value}, which cannot be read by index: convert it with "
                "python -m focalnet_jax.data.prepare tfrecord"
            )
        try:
            info = builder.info.splits[split]
            if info.num_examples < 1:
                raise ValueError(split)
            self._examples = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
        except (ValueError, KeyError) as error:
            known = ", ".join(builder.info.splits)
            raise UserError(
                f"{path} has no split {split!r}, or it is empty; expected {known}, or a slice such as train[:90%]"
            ) from error
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error}; prepare the data again") from error
        self._title = f"{builder.info.full_name} {split}"
        # Depends on file names only, so that the same files in a different directory have the same fingerprint.
        shards = [f"{Path(file.filename).name} {file.skip} {file.take}" for file in info.file_instructions]
        if self._copy is None:
            _check_shards(path, [file.filename for file in info.file_instructions])
        else:
            self._shards = [Path(file.filename).name for file in info.file_instructions]
            self._ends = list(accumulate(file.take for file in info.file_instructions))
            examples = (file.examples_in_shard for file in info.file_instructions)
            need_shards(self._copy, dict(zip(self._shards, examples, strict=True)))
        on_card = _fingerprint_on_card(Path(builder.data_dir, CARD), self.class_names)
        self.fingerprint = fingerprint_of([builder.info.full_name, *shards, *self.class_names, on_card])

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> tuple[Picture, Label]:
        self._wait_for(index)
        try:
            example = self._examples[index]
        except (RuntimeError, TypeError, ValueError, IndexError) as error:  # exceptions of the reader of records
            raise UnreadableImageError(f"its record is damaged: {' '.join(str(error).split())[:200]}") from error
        label = example[self._label_key]
        if not self._many:
            if not 0 <= label < len(self.class_names):  # TFDS stores -1 for examples without label
                raise UserError(
                    f"{self.name(index)} has label {label}; expected 0 to {len(self.class_names) - 1}: use a split in "
                    "which all images have labels"
                )
            return example["image"], np.int32(label)
        if len(label) > _MOST_LABELS:
            raise UserError(f"{self.name(index)} has {len(label)} labels; at most {_MOST_LABELS} are supported")
        return example["image"], np.pad(np.asarray(label, np.int32), (0, _MOST_LABELS - len(label)), constant_values=-1)

    def _wait_for(self, index: int) -> None:
        """Waits for the file of an example if the data set is in a bucket."""
        if self._copy is not None:
            self._copy.path(self._shards[bisect_right(self._ends, index)])

    def name(self, index: int) -> str:
        """Returns the file name stored in the record, or "example" if it is missing, with the split and the index."""
        try:
            self._wait_for(index)
            file = self._examples[index].get("file_name", b"").decode()
        except (RuntimeError, TypeError, ValueError, IndexError):
            file = ""
        return f"{file or 'example'} ({self._title}, {index})"


def _check_shards(path: str, files: Sequence[str]) -> None:
    """Raises `UserError` if a file is missing, or its index of records (at the end of the file) cannot be read."""
    absent = [file for file in files if not Path(file).is_file()]
    if absent:
        more = f" and {len(absent) - 1} more files" if len(absent) > 1 else ""
        raise UserError(
            f"{path} lacks the file {absent[0]}{more}: copy {'them' if more else 'it'} again, or prepare the data again"
        )
    for file in files:
        try:
            reader = ArrayRecordReader(file)
            reader.num_records()
            reader.close()
        except (RuntimeError, ValueError) as error:
            raise UserError(f"{file} is damaged or truncated: copy it again, or prepare the data again") from error


def _fingerprint_on_card(path: Path, class_names: Sequence[str]) -> str:
    """Returns the fingerprint in the card at `path`, or an empty string if there is no card.

    Raises:
      UserError: the card is damaged, or lists a different number of classes.
    """
    if not path.is_file():
        return ""
    card = read_card(path, fingerprint=str)
    classes = card.get("classes", class_names)
    if len(classes) != len(class_names):
        raise UserError(
            f"{path} lists {len(classes)} classes, but the metadata of the data set has {len(class_names)} names, so "
            "its labels are shifted: rename classes with an empty name or a line break, and prepare the data again"
        )
    return card["fingerprint"]


def open_builder(path: str) -> tfds.core.DatasetBuilder:
    """Returns the builder of the data set in or below the directory `path`, or of the TFDS data set named `path`.

    Reads local files only, and never downloads a data set.

    Raises:
      UserError: there is no such data set, or it is damaged or not prepared.
    """
    root = Path(path)
    if root.is_dir():
        found = [root] if (root / DESCRIPTION).is_file() else [p.parent for p in root.glob(f"*/*/{DESCRIPTION}")]
        found = found or [p.parent for p in root.glob(f"*/{DESCRIPTION}")]
        if len(found) != 1:
            held = f"several ({', '.join(sorted(map(str, found))[:5])})" if found else "none"
            raise UserError(f"expected one prepared data set (with {DESCRIPTION}) in {path}, found {held}")
        try:
            return tfds.builder_from_directory(found[0])
        except Exception as error:  # the library raises many types for damaged files
            raise UserError(f"{found[0]} is damaged: {' '.join(str(error).split())[:200]}; prepare it again") from error
    if "/" in path and not tfds.core.naming.is_valid_dataset_name(path.split("/")[0].split(":")[0]):
        raise UserError(f"data.path={path} is not a directory; expected a prepared directory or the name of a data set")
    try:
        name, _ = tfds.core.naming.parse_builder_name_kwargs(path)
        if (
            name.namespace
        ):  # a data set of the community, such as `huggingface:mnist`, which tfds looks up on the network
            raise tfds.core.registered.DatasetNotFoundError(path)
        builder = tfds.builder(path, file_format="array_record")
    except (tfds.core.registered.DatasetNotFoundError, ValueError, OSError, AssertionError, ImportError) as error:
        raise UserError(
            f"data.path={path} is neither a directory nor a data set of tensorflow-datasets; prepare one with "
            "python -m focalnet_jax.data.prepare"
        ) from error
    if not builder.is_prepared():
        raise UserError(
            f"{builder.info.full_name} is not prepared in {builder.data_dir}; prepare it there, or with "
            "python -m focalnet_jax.data.prepare"
        )
    return builder
