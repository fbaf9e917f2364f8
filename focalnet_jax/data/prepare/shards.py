"""Writes a shard of images, which are checked, converted if necessary, and counted."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image

from focalnet_jax.data.decode import PILLOWS_ERRORS, UnreadableImageError, decode
from focalnet_jax.data.formats import FORMATS, detect_type
from focalnet_jax.data.prepare.buckets import Upload
from focalnet_jax.data.prepare.containers import Container
from focalnet_jax.data.prepare.index import Index
from focalnet_jax.data.prepare.indexing import spool_of
from focalnet_jax.data.prepare.plan import Shard
from focalnet_jax.errors import UserError
from focalnet_jax.system.files import write_whole

_SUFFIX = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "MPO": ".jpg"}
# Formats that every reader decodes to RGB or grey. Their bytes are copied unchanged.
_PLAIN = {("JPEG", "RGB"), ("JPEG", "L"), ("MPO", "RGB"), ("PNG", "RGB"), ("PNG", "L")}


@dataclass(frozen=True)
class Job:
    """Data that a process needs to write any shard."""

    name: str
    classes: tuple[str, ...]
    containers: tuple[Container, ...]
    indices: tuple[Path, ...]  # path of each container's index
    out: Path  # folder of the data set
    upload: Upload | None = None  # moves the files to a bucket

    @property
    def title(self) -> str:
        """Path or address of the data set."""
        return str(self.out) if self.upload is None else self.upload.address


def features(classes: Sequence[str]) -> tfds.features.FeaturesDict:
    """Returns the TFDS features of an example: image `[H, W, 3]`, label and file_name."""
    return tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "label": tfds.features.ClassLabel(names=list(classes)),
            "file_name": tfds.features.Text(),
        }
    )


def shard_file(name: str, split: str, number: int, count: int) -> str:
    """Returns the file name that TFDS expects for a shard of a split with `count` shards."""
    return f"{name}-{split}.array_record-{number:05d}-of-{count:05d}"


def report_file(shard: Shard) -> str:
    """Returns the file name of a shard's report."""
    return f"{shard.split}-{shard.number:05d}.json"


def write_shard(job: Job, shard: Shard, reports: Path) -> int:
    """Writes a shard, then its report, and returns the number of bytes read.

    The report has the keys of `ShardWriter`, and `classes`: the number of images by label.
    """
    counts, read = Counter(), 0
    with ShardWriter(job.name, job.out, shard, features(job.classes), reports, job.upload) as writer:
        for name, label, encoded in _images(job, shard):
            read += len(encoded)
            try:
                checked, name = writer.normalized(name, encoded)
            except UnreadableImageError as error:
                writer.reject(name, error)
                continue
            line = f"{name} {label} {hashlib.sha256(checked).hexdigest()}"
            writer.add({"image": checked, "label": label, "file_name": name}, len(checked), line)
            counts[label] += 1
        writer.finish(classes=dict(sorted(counts.items())))
    return read


class ShardWriter:
    """Context manager that writes a shard, and then its report. Each file is created only when complete.

    The report contains `examples` (their number), `bytes` (size of the images), `digest` (hash of the lines that
    identify the examples), `sha256` (of the file), and the lists `rejected` and `normalized` of (file name, reason).

    Args:
      name: name of the data set.
      out: folder of the data set.
      shard: the shard.
      form: features of an example.
      reports: folder of the reports and of the unfinished shard.
      upload: moves the files to a bucket; None if the data set is local.
    """

    def __init__(
        self,
        name: str,
        out: Path,
        shard: Shard,
        form: tfds.features.FeaturesDict,
        reports: Path,
        upload: Upload | None = None,
    ):
        self._form, self._reports, self._upload, self._shard = form, reports, upload, shard
        self._serializer = tfds.core.example_serializer.ExampleSerializer(form.get_serialized_info())
        self._final = out / shard_file(name, shard.split, shard.number, shard.count)
        self._partial = reports / f"{self._final.name}.partial"
        self._stack = ExitStack()
        self._examples, self._bytes, self._digest = 0, 0, hashlib.sha256()
        self._rejected: list[tuple[str, str]] = []
        self._normalized: list[tuple[str, str]] = []

    def __enter__(self) -> ShardWriter:
        writer = ArrayRecordWriter(str(self._partial), "group_size:1")
        self._writer = self._stack.enter_context(closing(writer, self._partial))
        return self

    def __exit__(self, *error: Any) -> bool | None:
        return self._stack.__exit__(*error)

    def normalized(self, name: str, encoded: bytes) -> tuple[bytes, str]:
        """Returns an image in a format that every reader decodes, and its name with the suffix of the format.

        Raises:
          UnreadableImageError: the image cannot be decoded.
        """
        checked, suffix, reason = checked_image(encoded)
        source = PurePosixPath(name)
        if source.suffix.lower() not in (suffix, ".jpeg" if suffix == ".jpg" else suffix):
            name = str(source.with_suffix(suffix))
            reason = f"{reason or f'the suffix was {source.suffix or None}, the format is {suffix}'}; now {name}"
        if reason:
            self._normalized.append((str(source), reason))
        return checked, name

    def reject(self, name: str, error: UnreadableImageError) -> None:
        """Records that an image is not written, and why."""
        self._rejected.append((name, " ".join(str(error).split())[:200]))

    def add(self, example: Mapping[str, Any], size: int, line: str) -> None:
        """Writes an example with `size` bytes of images; `line` identifies it in the digest of the shard."""
        # Deterministic, because the order of fields otherwise differs from run to run.
        record = self._serializer.get_tf_example(self._form.encode_example(example))
        self._writer.write(record.SerializeToString(deterministic=True))
        self._examples += 1
        self._bytes += size
        self._digest.update(f"{line}\n".encode())

    def finish(self, **facts: Any) -> None:
        """Completes the shard, and writes its report; `facts` are further entries of the report."""
        self._stack.close()
        sha256 = file_digest(self._partial)
        self._partial.replace(self._final)  # not `write_whole`, because ArrayRecord itself writes to a path
        if self._upload is not None:
            self._upload.move(self._final)
        report = {
            "examples": self._examples,
            "bytes": self._bytes,
            **facts,
            "digest": self._digest.hexdigest(),
            "sha256": sha256,
            "rejected": self._rejected,
            "normalized": self._normalized,
        }
        write_whole(self._reports / report_file(self._shard), json.dumps(report))
        if self._upload is not None:
            self._upload.copy(self._reports / report_file(self._shard))


def file_digest(path: Path) -> str:
    """Returns the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def closing(writer: ArrayRecordWriter, path: Path) -> Iterator[ArrayRecordWriter]:
    """Context manager that closes `writer` at the end.

    Raises:
      UserError: `writer` cannot write to `path`.
    """
    try:
        try:
            yield writer
        finally:
            writer.close()
    except RuntimeError as error:
        raise UserError(f"cannot write {path}: {' '.join(str(error).split())[:200]}; free disk space") from error


def _images(job: Job, shard: Shard) -> Iterator[tuple[str, int, bytes]]:
    """Yields (name, label, encoded bytes) of every image of a shard."""
    labels = {name.encode(): label for label, name in enumerate(job.classes)}
    for (place, _), member in zip(shard.members.tolist(), _members(job, shard), strict=True):
        container = job.containers[place]
        path = spool_of(job.indices[place]) if container.spooled else container.path
        if container.size is None:
            path = os.path.join(path, os.fsdecode(member["name"]))
        name = member["file"].decode(errors="replace")
        try:
            with open(path, "rb") as file:
                file.seek(int(member["offset"]))
                encoded = file.read(int(member["size"]))
        except OSError as error:
            raise UserError(f"cannot read {name} of {container.title}: {error.strerror}") from error
        yield name, labels[bytes(member["class_name"])], encoded


def _members(job: Job, shard: Shard) -> list[np.void]:
    """Returns the members of a shard in order. The index of each container is opened once."""
    places, inverse = np.unique(shard.members[:, 0], return_inverse=True)
    members: list[np.void | None] = [None] * len(shard.members)
    for number, place in enumerate(places.tolist()):
        index = Index.load(job.indices[place]).members
        for row in np.flatnonzero(inverse == number).tolist():
            members[row] = index[shard.members[row, 1]].copy()
    return members


def _is_deep(format: str | None, encoded: bytes) -> bool:
    """Returns whether an image is a PNG with more than 8 bits per channel. Pillow's mode RGB does not show this."""
    return format == "PNG" and encoded[24] > 8  # bit depth in the header


def checked_image(encoded: bytes) -> tuple[bytes, str, str]:
    """Returns an image in a format that every reader decodes.

    8-bit RGB and grey JPEG and PNG images without transparency are unchanged. Other images become 8-bit RGB: JPEG if
    they were JPEG, else PNG.

    Args:
      encoded: content of an image file.

    Returns:
      The encoded image, the suffix of its format, and a description of the conversion, or "" if it is unchanged.

    Raises:
      UnreadableImageError: the image cannot be decoded.
    """
    pixels = decode(encoded)  # decodes all pixels, so that a truncated image is an error
    try:
        with Image.open(io.BytesIO(encoded), formats=FORMATS) as image:
            format, mode = image.format, image.mode
            plain = (format, mode) in _PLAIN and "transparency" not in image.info and not _is_deep(format, encoded)
    except PILLOWS_ERRORS:  # Pillow rejects the image's metadata, although its pixels can be decoded
        kind, _ = detect_type(encoded)
        format, mode, plain = kind.format, "damaged", False
    if plain:
        return encoded, _SUFFIX[format], ""
    into = "JPEG" if format in ("JPEG", "MPO") else "PNG"
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, into, **({"quality": 95, "subsampling": 0} if into == "JPEG" else {}))
    return buffer.getvalue(), _SUFFIX[into], f"{mode} {format} converted to RGB {into}"
