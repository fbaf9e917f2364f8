"""A data set of tensorflow-datasets from TFRecord, which is read in order, to ArrayRecord, which is read by index.

The examples stay as they are, byte for byte; TensorFlow is not needed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter

from focalnet_jax.data.prepare.preparation import VERSION, describe
from focalnet_jax.data.prepare.workers import Progress, run_all
from focalnet_jax.errors import UserError


def convert(sources: Sequence[Path], out: Path, processes: int) -> Path:
    """Writes `out`/NAME/1.0.0; shards written before are kept. Returns it.

    Raises:
      UserError: the source is no data set stored as TFRecord, or a file of it is damaged.
    """
    source = sources[0]
    try:
        builder = tfds.builder_from_directory(source)
    except (ValueError, OSError, KeyError, TypeError) as error:
        raise UserError(f"--source {source}: expected a folder with dataset_info.json, {error}") from error
    if len(sources) > 1 or builder.info.file_format is not tfds.core.FileFormat.TFRECORD:
        raise UserError(f"--source {source}: expected one data set stored as tfrecord")
    folder = out / builder.name / VERSION
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}; choose another --out") from error
    jobs, lengths = [], {}
    for split, info in builder.info.splits.items():
        lengths[split] = (list(info.shard_lengths), info.num_bytes)
        for number, (file, length) in enumerate(zip(info.filepaths, info.shard_lengths, strict=True)):
            shard = folder / f"{builder.name}-{split}.array_record-{number:05d}-of-{len(info.shard_lengths):05d}"
            if not shard.exists():
                jobs.append((Path(file), shard, length))
    progress = Progress("shards", len(jobs))
    if jobs:
        run_all(convert_shard, jobs, min(processes, len(jobs)), progress)
    describe(folder, builder.name, builder.info.features, lengths)
    print(f"train with --config.data.source=tfds --config.data.path={folder}")
    return folder


def convert_shard(source: Path, shard: Path, length: int) -> int:
    """Copies the records of a file; returns its size."""
    partial = shard.with_name(f".{shard.name}.partial")
    writer = ArrayRecordWriter(str(partial), "group_size:1")
    count = 0
    try:
        for record in _records(source):
            writer.write(record)
            count += 1
    finally:
        writer.close()
    if count != length:
        raise UserError(f"{source} holds {count} examples; its description says {length}")
    partial.replace(shard)
    return source.stat().st_size


def _records(path: Path) -> Iterator[bytes]:
    """TFRecord: the length in 8 bytes and 4 of its checksum, the record and 4 of its checksum."""
    with path.open("rb") as file:
        while header := file.read(12):
            if len(header) < 12:
                raise UserError(f"{path} is cut off")
            (length,) = struct.unpack("<Q", header[:8])
            record = file.read(length)
            if len(record) < length or len(file.read(4)) < 4:
                raise UserError(f"{path} is cut off")
            yield record
