"""Prepares images with masks: writes the shards, the TFDS metadata and the card."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from focalnet_jax import __version__
from focalnet_jax.data.card import CARD
from focalnet_jax.data.decode import UnreadableImageError, decode
from focalnet_jax.data.masks import IGNORED, UnreadableMaskError, decode_pair
from focalnet_jax.data.prepare.ade20k import NUM_IMAGES, Ade20k, Pair
from focalnet_jax.data.prepare.buckets import Upload
from focalnet_jax.data.prepare.metadata import MANIFEST, VERSION, lengths_of, write_description
from focalnet_jax.data.prepare.plan import Shard, by_size
from focalnet_jax.data.prepare.preparation import (
    REQUEST,
    PrepareOptions,
    check_begun,
    is_finished,
    working_folder,
    write_all,
    write_request,
)
from focalnet_jax.data.prepare.shards import ShardWriter, shard_file
from focalnet_jax.data.prepare.zips import Zip
from focalnet_jax.data.segment_classes import ade20k_classes
from focalnet_jax.data.source import fingerprint_of
from focalnet_jax.errors import UserError
from focalnet_jax.system.files import write_whole

UNLABELLED = "unlabelled"  # name of the stored label 0
_SEED = 0


@dataclass(frozen=True)
class Job:
    """Data that a process needs to write any shard."""

    name: str
    source: Ade20k
    out: Path  # folder of the data set
    upload: Upload | None  # moves the files to a bucket


def prepare_pairs(source: Ade20k, out: Path, options: PrepareOptions, processes: int, address: str = "") -> Path:
    """Prepares the images and masks of an archive, or resumes their preparation.

    Args:
      source: the archives.
      out: parent folder of the data set.
      options: options that determine the result.
      processes: number of worker processes.
      address: parent folder in a bucket to which the data set is moved from `out`; "" to leave it in `out`.

    Returns:
      The local folder of the data set, `out`/NAME/1.0.0.

    Raises:
      UserError: an archive is damaged, `out` contains a different data set, or the disk is full.
      RunFailedError: a worker process died, or the bucket does not answer.
    """
    if not tfds.core.naming.is_valid_dataset_name(options.name):
        raise UserError(f"--name {options.name}: expected lower-case letters, digits and _, beginning with a letter")
    folder = out / options.name / VERSION
    upload = Upload(f"{address}/{options.name}/{VERSION}", folder) if address else None
    with working_folder(folder) as work, contextlib.nullcontext() if upload is None else upload.held():
        for line in _describe(source):
            print(line, flush=True)
        request = {
            "name": options.name,
            "shard_bytes": options.shard_bytes,
            "images": len(source.pairs),
            "sources": fingerprint_of(
                f"{pair.split} {pair.name} {pair.digest} {pair.size} {pair.instances}" for pair in source.pairs
            ),
        }
        if is_finished(folder, request, upload):
            return folder
        check_begun(work / REQUEST, request)
        write_request(work / REQUEST, request, upload)
        job = Job(options.name, source, folder, upload)
        reports = write_all(write_pairs, job, _plan(source.pairs, options.shard_bytes), work, processes)
        _write_metadata(job, reports, request)
    return folder


def _describe(source: Ade20k) -> list[str]:
    counts = Counter(pair.split for pair in source.pairs)
    instances = f", with the instances in {source.instances}" if source.instances else ""
    lines = [f"{source.archive}: {counts['train']:,} images of train, {counts['val']:,} of val{instances}"]
    if counts != NUM_IMAGES:
        lines.append(f"note: ADE20K has {NUM_IMAGES['train']:,} images of train and {NUM_IMAGES['val']:,} of val")
    return lines


def _plan(pairs: Sequence[Pair], shard_bytes: int) -> list[Shard]:
    """Returns the shards of every split; the images of a split are in a fixed random order."""
    shards = []
    for split in NUM_IMAGES:
        members = np.flatnonzero([pair.split == split for pair in pairs])
        sizes = np.array([pairs[member].size for member in members])
        order = np.random.default_rng(_SEED).permutation(len(members))
        groups = list(by_size(order, sizes, shard_bytes))
        shards += [Shard(split, number, len(groups), members[group]) for number, group in enumerate(groups)]
    return shards


def features(with_instances: bool) -> tfds.features.FeaturesDict:
    """Returns the TFDS features of an example: image `[H, W, 3]`, mask `[H, W, 1]` and file_name.

    If `with_instances`, an example also has instances `[H, W, 3]`.
    """
    form = {
        "image": tfds.features.Image(shape=(None, None, 3)),
        "mask": tfds.features.LabeledImage(
            labels=[UNLABELLED, *ade20k_classes().names], shape=(None, None, 1), encoding_format="png"
        ),
        "file_name": tfds.features.Text(),
    }
    if with_instances:
        form["instances"] = tfds.features.Image(shape=(None, None, 3), encoding_format="png")
    return tfds.features.FeaturesDict(form)


def write_pairs(job: Job, shard: Shard, reports: Path) -> int:
    """Writes a shard of images and masks, then its report, and returns the number of bytes read.

    The files are copied unchanged, except images that not every reader decodes, see `checked_image`. The report has the
    keys of `ShardWriter`, and `classes`: the number of images with each class.
    """
    source, coding, counts, read = job.source, ade20k_classes().coding(True), Counter(), 0
    form = features(source.instances is not None)
    with (
        Zip(source.archive) as archive,
        ShardWriter(job.name, job.out, shard, form, reports, job.upload) as writer,
    ):
        for pair in (source.pairs[member] for member in shard.members.tolist()):
            read += pair.size
            try:
                image, stored = archive.read(pair.image), archive.read(pair.mask)
                _, mask = decode_pair(image, stored, coding)
                checked, name = writer.normalized(pair.name, image)
                if checked is not image:  # a converted image has no EXIF orientation
                    _, mask = decode_pair(checked, stored, coding)
                example = {"image": checked, "mask": stored, "file_name": name}
                if source.instances is not None:
                    example["instances"] = _instances(source.instances, pair, mask.shape)
            except UnreadableImageError as error:
                writer.reject(pair.name, error)
                continue
            images = [value for key, value in example.items() if key != "file_name"]
            digests = " ".join(hashlib.sha256(content).hexdigest() for content in images)
            writer.add(example, sum(map(len, images)), f"{name} {digests}")
            counts.update(np.unique(mask).tolist())
        counts.pop(IGNORED, None)
        writer.finish(classes=dict(sorted(counts.items())))
    return read


def _instances(path: Path, pair: Pair, shape: tuple[int, int]) -> bytes:
    """Returns the encoded instances of an image; raises `UnreadableMaskError` if damaged or not of shape `[H, W]`."""
    offset, size = pair.instances
    with path.open("rb") as file:
        file.seek(offset)
        encoded = file.read(size)
    try:
        pixels = decode(encoded)
    except UnreadableImageError as error:
        raise UnreadableMaskError(f"its instances: {error}") from error
    if pixels.shape[:2] != shape:
        raise UnreadableMaskError(f"its instances have {pixels.shape[1]}x{pixels.shape[0]} pixels")
    return encoded


def _write_metadata(job: Job, reports: Sequence[tuple[Shard, dict[str, Any]]], request: Mapping[str, Any]) -> None:
    """Writes the manifest, the metadata and the card, which marks the data set as complete; prints a summary."""
    source, listed = job.source, ade20k_classes()
    rows = [
        {"split": shard.split, "file": name, "status": status, "reason": reason}
        for shard, report in reports
        for status in ("rejected", "normalized")
        for name, reason in report[status]
    ]
    rows += [
        {"split": split, "file": name, "status": "rejected", "reason": reason} for split, name, reason in source.alone
    ]
    write_whole(job.out / MANIFEST, "".join(json.dumps(row) + "\n" for row in rows))
    lengths = lengths_of(reports)
    write_description(job.out, job.name, VERSION, features(source.instances is not None), lengths)
    counts = {split: Counter() for split in lengths}
    for shard, report in reports:
        counts[shard.split].update({int(label): count for label, count in report["classes"].items()})
    card = {
        "name": job.name,
        "fingerprint": fingerprint_of(f"{shard.split} {shard.number} {report['digest']}" for shard, report in reports),
        "splits": {
            split: {"examples": sum(shards), "bytes": size, "shards": len(shards)}
            for split, (shards, size) in lengths.items()
        },
        "sha256": {
            shard_file(job.name, shard.split, shard.number, shard.count): report["sha256"] for shard, report in reports
        },
        "rejected": sum(row["status"] == "rejected" for row in rows),
        "normalized": sum(row["status"] == "normalized" for row in rows),
        "classes": {
            name: {split: found[label] for split, found in counts.items()} for label, name in enumerate(listed.names)
        },
        "reduce_zero_label": True,
        "palette": [list(colour) for colour in listed.colours],
        "files": source.files,
        "left_out": dict(source.left_out),
        "version": __version__,
        "asked": dict(request),
    }
    write_whole(job.out / CARD, json.dumps(card, indent=1) + "\n")
    if job.upload is not None:
        job.upload.finish()
    _print_card(str(job.out) if job.upload is None else job.upload.address, card, rows)


def _print_card(out: str, card: Mapping[str, Any], rows: Sequence[Mapping[str, str]]) -> None:
    for split, of in card["splits"].items():
        print(f"{split:<6}{of['examples']:,} images with masks, {of['bytes'] / 1e6:,.1f} MB, {of['shards']} shards")
    empty = [name for name, counts in card["classes"].items() if not counts.get("train")]
    print(f"{len(card['classes'])} classes, {len(empty)} without training images")
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(card["left_out"].items()))
    print(f"{card['files']:,} files seen, {sum(card['left_out'].values()):,} left out{f' ({kinds})' if kinds else ''}")
    reasons = Counter(row["reason"] for row in rows if row["status"] == "rejected")
    for reason, count in reasons.most_common(5):
        print(f"  rejected {count:,}: {reason}")
    print(f"images rejected: {card['rejected']}, normalized: {card['normalized']}; listed in {out}/{MANIFEST}")
    print(
        f"fingerprint {card['fingerprint']}; train with --config configs/upernet_ade20k.py:VARIANT "
        f"--config.data.path={out}"
    )
