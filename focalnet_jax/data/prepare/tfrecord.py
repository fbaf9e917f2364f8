"""Converts a tensorflow-datasets data set from TFRecord (sequential access) to ArrayRecord (random access).

The examples are copied byte for byte; TensorFlow is not needed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

import google_crc32c
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter

from focalnet_jax import __version__
from focalnet_jax.data.card import CARD
from focalnet_jax.data.prepare.buckets import Upload
from focalnet_jax.data.prepare.kinds import check_paths
from focalnet_jax.data.prepare.labels import Labels
from focalnet_jax.data.prepare.locations import locate
from focalnet_jax.data.prepare.metadata import write_description
from focalnet_jax.data.prepare.preparation import REQUEST, check_begun, is_finished, working_folder, write_request
from focalnet_jax.data.prepare.shards import closing, file_digest, shard_file
from focalnet_jax.data.prepare.workers import ProgressPrinter, run_all
from focalnet_jax.data.source import fingerprint_of
from focalnet_jax.data.tfds_records import open_builder
from focalnet_jax.errors import UserError
from focalnet_jax.system.files import write_whole

_LONGEST = 1 << 30  # largest record in bytes; a greater length means damage


def convert(sources: Sequence[Path], out: Path, processes: int, address: str = "") -> Path:
    """Converts a data set, or resumes its conversion.

    Args:
      sources: folder of the data set, as the only element.
      out: parent folder of the converted data set.
      processes: number of worker processes.
      address: parent folder in a bucket to which the data set is moved from `out`; "" to leave it in `out`.

    Returns:
      The local folder of the converted data set, `out`/NAME/VERSION.

    Raises:
      UserError: the source is not a data set stored as TFRecord, or one of its files is missing or damaged.
      RunFailedError: a worker process died, or the bucket does not answer.
    """
    source = sources[0]
    locate("tfrecord", source, Labels())  # raises `UserError` for addresses on the hub
    check_paths(sources)
    builder = open_builder(str(source))
    if len(sources) > 1 or builder.info.file_format is not tfds.core.FileFormat.TFRECORD:
        raise UserError(f"--source {source}: expected one data set stored as tfrecord")
    folder = out / builder.name / str(builder.version)
    upload = Upload(f"{address}/{builder.name}/{builder.version}", folder) if address else None
    with working_folder(folder) as work, contextlib.nullcontext() if upload is None else upload.held():
        jobs, lengths, files, times = [], {}, [], []
        for split, info in builder.info.splits.items():
            lengths[split] = (list(info.shard_lengths), info.num_bytes)
            for number, (file, length) in enumerate(zip(info.filepaths, info.shard_lengths, strict=True)):
                shard = folder / shard_file(builder.name, split, number, len(info.shard_lengths))
                status = _status(Path(file))
                digest = work / f"{shard.name}-{status.st_mtime_ns}.digest"  # a replaced file is converted again
                jobs.append((Path(file), shard, length, digest, upload))
                files.append(f"{split} {number} {length} {status.st_size}")
                times.append(f"{split} {number} {status.st_mtime_ns}")
        request = {
            "name": builder.name,
            "version": str(builder.version),
            "sources": fingerprint_of(files),
            "times": fingerprint_of(times),
            "features": fingerprint_of(_described(Path(builder.data_dir))),
        }
        if is_finished(folder, request, upload):
            return folder
        check_begun(work / REQUEST, {key: value for key, value in request.items() if key != "times"})
        write_request(work / REQUEST, request, upload)
        missing = [job for job in jobs if not job[3].is_file()]
        if missing:
            run_all(convert_shard, missing, min(processes, len(missing)), ProgressPrinter("shards", len(missing)))
        write_description(folder, builder.name, str(builder.version), builder.info.features, lengths)
        card = {
            "name": builder.name,
            "fingerprint": fingerprint_of(digest.read_text() for *_, digest, _ in jobs),
            "splits": {
                split: {"examples": sum(shards), "bytes": size, "shards": len(shards)}
                for split, (shards, size) in lengths.items()
            },
            "sha256": {
                shard.name: checksum.read_text()
                for _, shard, _, digest, _ in jobs
                if (checksum := digest.with_suffix(".sha256")).is_file()  # an older version wrote none
            },
            "version": __version__,
            "asked": request,
        }
        write_whole(folder / CARD, json.dumps(card, indent=1) + "\n")
        if upload is not None:
            upload.finish()
    print(f"train with --config.data.source=tfds --config.data.path={folder if upload is None else upload.address}")
    return folder


def _described(folder: Path) -> list[str]:
    """Returns name and hash of each file that contains the features or class names of a data set."""
    found = sorted([*folder.glob("features.json"), *folder.glob("*.labels.txt")])
    return [f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in found]


def _status(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def convert_shard(source: Path, shard: Path, length: int, digest: Path, upload: Upload | None = None) -> int:
    """Copies the records of `source` to `shard`, and returns the size of `source`.

    Writes the SHA-256 of `shard` next to `digest`, then the hash of the records to `digest`.

    Raises:
      UserError: the file is damaged, or does not contain `length` records.
    """
    partial = digest.with_suffix(".partial")
    count, seen = 0, hashlib.sha256()
    with closing(ArrayRecordWriter(str(partial), "group_size:1"), partial) as writer:
        for record in _records(source):
            writer.write(record)
            seen.update(hashlib.sha256(record).digest())
            count += 1
    if count != length:
        raise UserError(
            f"{source} contains {count} examples, but {length} according to the data set's metadata: download it again"
        )
    checksum = digest.with_suffix(".sha256")
    write_whole(checksum, file_digest(partial))
    partial.replace(shard)
    if upload is not None:
        upload.move(shard)
        upload.copy(checksum)
    write_whole(digest, seen.hexdigest())
    if upload is not None:
        upload.copy(digest)
    return source.stat().st_size


def _records(path: Path) -> Iterator[bytes]:
    """Yields the records of a TFRecord file.

    A record is stored as its length (8 bytes), a checksum of the length (4 bytes), its content, and a checksum of the
    content (4 bytes).
    """
    with path.open("rb") as file:
        while header := file.read(12):
            (size,) = struct.unpack("<Q", _checked(path, header, 8))
            yield _checked(path, file.read(min(size, _LONGEST) + 4), size)


def _checked(path: Path, read: bytes, size: int) -> bytes:
    """Returns the first `size` bytes of `read`, after verifying the checksum that follows them."""
    crc = google_crc32c.value(read[:size])
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    if len(read) != size + 4 or masked.to_bytes(4, "little") != read[size:]:
        raise UserError(f"{path} is damaged or truncated: a checksum does not match; download it again")
    return read[:size]
