"""Writing one shard: images checked, put right where they must be, and counted."""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath

import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image

from focalnet_jax.data.decode import UnreadableImageError, decode
from focalnet_jax.data.prepare.containers import Container, Index
from focalnet_jax.data.prepare.plan import Shard
from focalnet_jax.errors import UserError

_SUFFIX = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "MPO": ".jpg"}
# What every reader decodes: bytes of these stay as they are.
_PLAIN = {("JPEG", "RGB"), ("JPEG", "L"), ("MPO", "RGB"), ("PNG", "RGB"), ("PNG", "L")}


@dataclass(frozen=True)
class Job:
    """What a process needs to write any shard."""

    name: str
    classes: tuple[str, ...]
    containers: tuple[Container, ...]
    indices: Path  # where the index of container n lies, as n.npz
    out: Path


def features(classes: Sequence[str]) -> tfds.features.FeaturesDict:
    """What an example is."""
    return tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "label": tfds.features.ClassLabel(names=list(classes)),
            "file_name": tfds.features.Text(),
        }
    )


def shard_file(name: str, shard: Shard) -> str:
    """The name TFDS expects."""
    return f"{name}-{shard.split}.array_record-{shard.number:05d}-of-{shard.count:05d}"


def report_file(shard: Shard) -> str:
    """The name of what is said about a shard."""
    return f"{shard.split}-{shard.number:05d}.json"


def write_shard(job: Job, shard: Shard, reports: Path) -> int:
    """Writes a shard and a report of it; both appear whole, the report last. Returns the number of bytes read.

    The report holds `examples`, `bytes`, `classes` (images by label), `digest`, `rejected` and `normalized` (names and
    reasons).
    """
    form = features(job.classes)
    serializer = tfds.core.example_serializer.ExampleSerializer(form.get_serialized_info())
    partial, final = reports / f"{shard_file(job.name, shard)}.partial", job.out / shard_file(job.name, shard)
    counts, digest, size, read = Counter(), hashlib.sha256(), 0, 0
    rejected, normalized = [], []
    writer = ArrayRecordWriter(str(partial), "group_size:1")
    try:
        for name, label, encoded in _members(job, shard):
            read += len(encoded)
            try:
                checked, suffix, reason = checked_image(encoded)
            except UnreadableImageError as error:
                rejected.append((name, " ".join(str(error).split())[:200]))
                continue
            if PurePosixPath(name).suffix.lower() not in (suffix, ".jpeg" if suffix == ".jpg" else suffix):
                reason = reason or f"the name says {PurePosixPath(name).suffix}, it is {suffix}"
                name = str(PurePosixPath(name).with_suffix(suffix))
            if reason:
                normalized.append((name, reason))
            example = {"image": checked, "label": label, "file_name": name}
            writer.write(serializer.serialize_example(form.encode_example(example)))
            counts[label] += 1
            size += len(checked)
            digest.update(f"{name} {label} {hashlib.sha256(checked).hexdigest()}\n".encode())
    finally:
        writer.close()
    partial.replace(final)
    report = {
        "examples": sum(counts.values()),
        "bytes": size,
        "classes": dict(sorted(counts.items())),
        "digest": digest.hexdigest(),
        "rejected": rejected,
        "normalized": normalized,
    }
    partial = reports / f"{report_file(shard)}.partial"
    partial.write_text(json.dumps(report))
    partial.replace(reports / report_file(shard))
    return read


def _members(job: Job, shard: Shard) -> Iterator[tuple[str, int, bytes]]:
    """Name, label and bytes of every image of a shard."""
    labels = {name: label for label, name in enumerate(job.classes)}
    for piece in shard.pieces:
        container, index = job.containers[piece.container], _index(job.indices / f"{piece.container}.npz")
        below = f"{container.class_name}/" if container.class_name else ""
        for place in piece.members:
            name = index.names[place].decode(errors="replace")
            path = Path(container.path)
            try:
                with (path / name if path.is_dir() else path).open("rb") as file:
                    file.seek(int(index.offsets[place]))
                    encoded = file.read(int(index.sizes[place]))
            except OSError as error:
                raise UserError(f"cannot read {name} of {container.title}: {error.strerror}") from error
            yield below + name, labels[index.classes[place].decode()], encoded


@lru_cache(maxsize=8)
def _index(path: Path) -> Index:
    return Index.load(path)


def checked_image(encoded: bytes) -> tuple[bytes, str, str]:
    """An image every reader decodes, the suffix of its format, and why it had to be changed, if so.

    The bytes of RGB and grey JPEG and PNG images of 8 bits stay as they are. What is left becomes RGB: JPEG again if it
    was one, else PNG.

    Raises:
      UnreadableImageError: it cannot be decoded.
    """
    pixels = decode(encoded)  # all of it, so that what is cut off shows
    with Image.open(io.BytesIO(encoded)) as image:
        format, mode = image.format, image.mode
        plain = (format, mode) in _PLAIN and "transparency" not in image.info
    if plain:
        return encoded, _SUFFIX[format], ""
    into = "JPEG" if format in ("JPEG", "MPO") else "PNG"
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, into, **({"quality": 95, "subsampling": 0} if into == "JPEG" else {}))
    return buffer.getvalue(), _SUFFIX[into], f"{mode} {format} made RGB {into}"
