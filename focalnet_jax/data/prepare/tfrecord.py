"""A data set of tensorflow-datasets from TFRecord, which is read in order, to ArrayRecord, which is read by index.

The examples stay as they are, byte for byte; TensorFlow is not needed.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

import google_crc32c
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter

from focalnet_jax import __version__
from focalnet_jax.data.prepare.preparation import ASKED, check_begun, describe, is_finished, working_folder
from focalnet_jax.data.prepare.shards import closing, write_whole
from focalnet_jax.data.prepare.workers import Progress, run_all
from focalnet_jax.data.sources import fingerprint_of
from focalnet_jax.data.tfds_source import CARD, open_builder
from focalnet_jax.errors import UserError

_LONGEST = 1 << 30  # bytes of a record; a length above it is damage


def convert(sources: Sequence[Path], out: Path, processes: int) -> Path:
    """Writes `out`/NAME/VERSION, or goes on where that was stopped; returns it.

    Raises:
      UserError: the source is no data set stored as TFRecord, or a file of it is missing or damaged.
      RunFailedError: a process died.
    """
    source = sources[0]
    builder = open_builder(str(source))
    if len(sources) > 1 or builder.info.file_format is not tfds.core.FileFormat.TFRECORD:
        raise UserError(f"--source {source}: expected one data set stored as tfrecord")
    folder = out / builder.name / str(builder.version)
    with working_folder(folder) as work:
        jobs, lengths, files = [], {}, []
        for split, info in builder.info.splits.items():
            lengths[split] = (list(info.shard_lengths), info.num_bytes)
            for number, (file, length) in enumerate(zip(info.filepaths, info.shard_lengths, strict=True)):
                shard = folder / f"{builder.name}-{split}.array_record-{number:05d}-of-{len(info.shard_lengths):05d}"
                jobs.append((Path(file), shard, length, work / f"{shard.name}.digest"))
                files.append(f"{split} {number} {length} {_size(Path(file))}")
        asked = {"name": builder.name, "version": str(builder.version), "sources": fingerprint_of(files)}
        if is_finished(folder, asked):
            return folder
        check_begun(work / ASKED, asked)
        write_whole(work / ASKED, json.dumps(asked))
        missing = [job for job in jobs if not job[-1].is_file()]
        if missing:
            run_all(convert_shard, missing, min(processes, len(missing)), Progress("shards", len(missing)))
        describe(folder, builder.name, str(builder.version), builder.info.features, lengths)
        card = {
            "name": builder.name,
            "fingerprint": fingerprint_of(digest.read_text() for *_, digest in jobs),
            "splits": {
                split: {"examples": sum(shards), "bytes": size, "shards": len(shards)}
                for split, (shards, size) in lengths.items()
            },
            "version": __version__,
            "asked": asked,
        }
        write_whole(folder / CARD, json.dumps(card, indent=1) + "\n")
    print(f"train with --config.data.source=tfds --config.data.path={folder}")
    return folder


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def convert_shard(source: Path, shard: Path, length: int, digest: Path) -> int:
    """Copies the records of a file and leaves their digest; returns its size."""
    partial = digest.with_suffix(".partial")
    count, seen = 0, hashlib.sha256()
    with closing(ArrayRecordWriter(str(partial), "group_size:1"), partial) as writer:
        for record in _records(source):
            writer.write(record)
            seen.update(hashlib.sha256(record).digest())
            count += 1
    if count != length:
        raise UserError(f"{source} holds {count} examples; its description says {length}")
    partial.replace(shard)
    write_whole(digest, seen.hexdigest())
    return source.stat().st_size


def _records(path: Path) -> Iterator[bytes]:
    """TFRecord: a length of 8 bytes and the record, each followed by 4 bytes of checksum."""
    with path.open("rb") as file:
        while header := file.read(12):
            (size,) = struct.unpack("<Q", _checked(path, header, 8))
            yield _checked(path, file.read(min(size, _LONGEST) + 4), size)


def _checked(path: Path, read: bytes, size: int) -> bytes:
    """`size` bytes without the checksum that follows them."""
    crc = google_crc32c.value(read[:size])
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    if len(read) != size + 4 or masked.to_bytes(4, "little") != read[size:]:
        raise UserError(f"{path} is damaged or cut off: a checksum does not fit; get it again")
    return read[:size]
