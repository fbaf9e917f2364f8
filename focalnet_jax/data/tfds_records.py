"""Reads the records of tensorflow-datasets (TFDS) that are stored as ArrayRecord, without TensorFlow."""

from __future__ import annotations

import contextlib
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader

from focalnet_jax.data.card import DESCRIPTION
from focalnet_jax.data.decode import UnreadableImageError
from focalnet_jax.data.staged import need_shards, staged_data_set
from focalnet_jax.errors import UserError
from focalnet_jax.storage.address import is_bucket
from focalnet_jax.storage.cached import errors_name_bucket


class TfdsRecords:
    """The records of a split of a TFDS data set, or of a slice such as `train[:90%]` or `train[1000:]`.

    Args:
      path: directory of a data set, such as one written by `python -m focalnet_jax.data.prepare`, or its parent
        directory; or the name of a data set that is prepared in TFDS's directory (`TFDS_DATA_DIR`). Either directory
        may be in a bucket, gs://; each file is then copied to this host, and is read as soon as it is complete.
      split: name of the split, or a slice of the split.
      cache: folder for local copies of data in buckets.
      check: function that raises `UserError` if the features of the data set are not suitable.
      encoded: features to read as encoded bytes, not decoded, if the data set has them.

    Attributes:
      folder: local folder of the data set.
      identity: the name of the data set and the files of the split, which do not depend on the folder.

    Raises:
      UserError: the data set or split does not exist, is damaged, has unsuitable features, or is stored as TFRecord.
    """

    def __init__(
        self,
        path: str | None,
        split: str,
        cache: str,
        check: Callable[[tfds.features.FeaturesDict], None],
        encoded: Sequence[str] = ("image",),
    ):
        if not path:
            raise UserError("data.source=tfds needs data.path: give a prepared directory or the name of a data set")
        self._copy = staged_data_set(path, cache) if is_bucket(path) else None
        with self.errors_name_bucket():
            builder = open_builder(path if self._copy is None else str(self._copy.folder))
            check(builder.info.features)
            self._open(path, builder, split, encoded)

    def _open(self, path: str, builder: tfds.core.DatasetBuilder, split: str, encoded: Sequence[str]) -> None:
        if builder.info.file_format is not tfds.core.FileFormat.ARRAY_RECORD:
            raise UserError(
                f"{path} is stored as {builder.info.file_format.value}, which cannot be read by index: convert it with "
                "python -m focalnet_jax.data.prepare tfrecord"
            )
        try:
            info = builder.info.splits[split]
            if info.num_examples < 1:
                raise ValueError(split)
            decoders = {key: tfds.decode.SkipDecoding() for key in encoded if key in builder.info.features}
            self._examples = builder.as_data_source(split, decoders=decoders)
        except (ValueError, KeyError) as error:
            known = ", ".join(builder.info.splits)
            raise UserError(
                f"{path} has no split {split!r}, or it is empty; expected {known}, or a slice such as train[:90%]: "
                "set --config.data.train_split and --config.data.eval_split"
            ) from error
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error}; prepare the data again") from error
        self._title = f"{builder.info.full_name} {split}"
        self.folder = Path(builder.data_dir)
        # Depends on file names only, so that the same files in a different directory have the same fingerprint.
        shards = [f"{Path(file.filename).name} {file.skip} {file.take}" for file in info.file_instructions]
        self.identity = (builder.info.full_name, *shards)
        if self._copy is None:
            _check_shards(path, [file.filename for file in info.file_instructions])
        else:
            self._shards = [Path(file.filename).name for file in info.file_instructions]
            self._ends = list(accumulate(file.take for file in info.file_instructions))
            examples = (file.examples_in_shard for file in info.file_instructions)
            need_shards(self._copy, dict(zip(self._shards, examples, strict=True)))

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        self._wait_for(index)
        try:
            return self._examples[index]
        except (RuntimeError, TypeError, ValueError, IndexError) as error:  # exceptions of the reader of records
            raise UnreadableImageError(f"its record is damaged: {' '.join(str(error).split())[:200]}") from error

    def errors_name_bucket(self) -> contextlib.AbstractContextManager[None]:
        """Context manager in which errors name the address of the data set instead of its local copy."""
        return contextlib.nullcontext() if self._copy is None else errors_name_bucket(self._copy)

    def _wait_for(self, index: int) -> None:
        """Waits for the file of an example if the data set is in a bucket."""
        if self._copy is not None:
            self._copy.path(self._shards[bisect_right(self._ends, index)])

    def name(self, index: int) -> str:
        """Returns the file name in the record, or "example" if it is missing, with the data set, split and index."""
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
            held = (
                f"several ({', '.join(sorted(map(str, found))[:5])})"
                if found
                else "none; if data.prepare was interrupted, repeat its command"
            )
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
