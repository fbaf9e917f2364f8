"""Writes the files that complete a prepared data set of images with objects: manifest, metadata, ids and card."""

from __future__ import annotations

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
from focalnet_jax.data.coco.entries import Categories, Images
from focalnet_jax.data.coco.problems import Problems
from focalnet_jax.data.coco.splits import images_file
from focalnet_jax.data.prepare.buckets import Upload
from focalnet_jax.data.prepare.coco import Store
from focalnet_jax.data.prepare.metadata import MANIFEST, VERSION, lengths_of, write_description
from focalnet_jax.data.prepare.plan import Shard
from focalnet_jax.data.prepare.shards import shard_file
from focalnet_jax.data.source import fingerprint_of
from focalnet_jax.system.files import write_whole

_MISSING = "the image is missing"


@dataclass(frozen=True)
class Job:
    """Data that a process needs to write any shard."""

    name: str
    stores: tuple[Store, ...]
    out: Path  # folder of the data set
    upload: Upload | None  # moves the files to a bucket


@dataclass(frozen=True)
class Split:
    """The checked annotations of a split.

    Attributes:
      name: train, val or test.
      images: all images.
      sizes: bytes of each image, `[n]` int64; -1 if it is missing.
      problems: what is wrong with the annotations.
      masks: whether objects have masks.
      counts: number of usable objects by class.
      annotations: number of annotations of each image, `[n]`.
      digest: hash of the classes, the images and their annotations.
    """

    name: str
    images: Images
    sizes: np.ndarray
    problems: Problems
    masks: bool
    counts: np.ndarray
    annotations: np.ndarray
    digest: str


def features() -> tfds.features.FeaturesDict:
    """Returns the TFDS features of an example: image `[H, W, 3]`, file_name, image_id, and annotations as JSON."""
    return tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "file_name": tfds.features.Text(),
            "image_id": np.int64,
            "annotations": tfds.features.Text(),
        }
    )


def write_metadata(
    job: Job,
    splits: Sequence[Split],
    classes: Categories,
    reports: Sequence[tuple[Shard, dict[str, Any]]],
    request: Mapping[str, Any],
) -> None:
    """Writes the manifest, TFDS metadata, ids and the card, which marks the data set as complete; prints a summary."""
    rows = [
        {"split": shard.split, "file": name, "status": status, "reason": reason}
        for shard, report in reports
        for status in ("rejected", "normalized")
        for name, reason in report[status]
    ]
    for split in splits:
        for place in np.flatnonzero(split.sizes < 0).tolist():
            rows.append(
                {"split": split.name, "file": split.images.names[place], "status": "rejected", "reason": _MISSING}
            )
        for done, reason, ids in split.problems:
            rows += [{"split": split.name, "annotation": id, "status": done, "reason": reason} for id in ids]
    write_whole(job.out / MANIFEST, "".join(json.dumps(row) + "\n" for row in rows))
    lengths = lengths_of(reports)
    write_description(job.out, job.name, VERSION, features(), lengths)
    for split in splits:
        _write_images(job, split, [(shard, report) for shard, report in reports if shard.split == split.name])
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
            name: {split.name: int(split.counts[label]) for split in splits} for label, name in enumerate(classes.names)
        },
        "categories": classes.entries(),
        "masks": {split.name: split.masks for split in splits},
        "problems": {split.name: split.problems.counts() for split in splits},
        "version": __version__,
        "asked": dict(request),
    }
    write_whole(job.out / CARD, json.dumps(card, indent=1) + "\n")
    if job.upload is not None:
        job.upload.finish()
    _print_card(str(job.out) if job.upload is None else job.upload.address, card, splits, rows)


def _write_images(job: Job, split: Split, reports: Sequence[tuple[Shard, dict[str, Any]]]) -> None:
    """Writes ids, sizes, names and numbers of annotations of the images of a split, in the order of the records."""
    written = [place for _, report in reports for place in report["written"]]
    shards = {
        shard_file(job.name, shard.split, shard.number, shard.count): len(report["written"])
        for shard, report in reports
    }
    content = {
        "shards": shards,
        "ids": split.images.ids[written].tolist(),
        "sizes": split.images.sizes[written].tolist(),
        "names": [split.images.names[place] for place in written],
        "annotations": split.annotations[written].tolist(),
    }
    write_whole(job.out / images_file(split.name), json.dumps(content))


def _print_card(out: str, card: Mapping[str, Any], splits: Sequence[Split], rows: Sequence[Mapping[str, Any]]) -> None:
    for split, of in card["splits"].items():
        print(f"{split:<6}{of['examples']:,} images, {of['bytes'] / 1e6:,.1f} MB, {of['shards']} shards")
    for split in splits:
        for line in split.problems.lines():
            print(f"  {split.name}: {line}")
    empty = [name for name, counts in card["classes"].items() if not counts.get("train")]
    print(f"{len(card['classes'])} classes, {len(empty)} without training objects")
    reasons = Counter(row["reason"] for row in rows if row["status"] == "rejected")
    for reason, count in reasons.most_common(5):
        print(f"  rejected {count:,}: {reason}")
    print(f"images rejected: {card['rejected']}, normalized: {card['normalized']}; listed in {out}/{MANIFEST}")
    print(f"fingerprint {card['fingerprint']}; train with --config.data.source=tfds --config.data.path={out}")
