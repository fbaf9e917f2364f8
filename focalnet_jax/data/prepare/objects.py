"""Prepares images with objects in COCO's format: writes the shards, the TFDS metadata and the card.

A record has the bytes of the image and its annotations as JSON, as they are in COCO's file; `CocoRecords` reads them.
"""

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
from focalnet_jax.data.coco.annotations import check_annotations
from focalnet_jax.data.coco.entries import Categories, Images, check_categories, check_images
from focalnet_jax.data.coco.parsing import as_entry, parse_coco
from focalnet_jax.data.coco.problems import Problems
from focalnet_jax.data.coco.splits import images_file
from focalnet_jax.data.decode import UnreadableImageError, decode
from focalnet_jax.data.prepare.buckets import Upload
from focalnet_jax.data.prepare.coco import AnnotationFile, Coco, Store
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
from focalnet_jax.data.source import fingerprint_of
from focalnet_jax.errors import UserError
from focalnet_jax.system.files import write_whole

NUM_IMAGES = {"train": 118_287, "val": 5_000}  # of COCO 2017
_SEED = 0
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
      problems: what is wrong with annotations.
      masks: whether objects have masks.
      counts: number of usable objects by class.
      annotations: number of annotations of each image, `[n]`.
      digest: hash of the annotations.
    """

    name: str
    images: Images
    sizes: np.ndarray
    problems: Problems
    masks: bool
    counts: np.ndarray
    annotations: np.ndarray
    digest: str


def prepare_coco(source: Coco, out: Path, options: PrepareOptions, processes: int, address: str = "") -> Path:
    """Prepares the images and annotations of a source, or resumes their preparation.

    Args:
      source: annotations and images.
      out: parent folder of the data set.
      options: options that determine the result.
      processes: number of worker processes.
      address: folder in a bucket to which the data set is moved; `out` then only has intermediate files.

    Returns:
      The folder of the data set, `out`/NAME/1.0.0.

    Raises:
      UserError: the annotations are damaged or inconsistent, an archive is damaged, or `out` contains another data set.
      RunFailedError: a worker process died.
    """
    if not tfds.core.naming.is_valid_dataset_name(options.name):
        raise UserError(f"--name {options.name}: expected lower-case letters, digits and _, beginning with a letter")
    folder = out / options.name / VERSION
    upload = Upload(f"{address}/{options.name}/{VERSION}", folder) if address else None
    with working_folder(folder) as work, contextlib.nullcontext() if upload is None else upload.held():
        splits, classes = _read_splits(source, work)
        request = {
            "name": options.name,
            "shard_bytes": options.shard_bytes,
            "images": sum(len(split.images) for split in splits),
            "sources": fingerprint_of(f"{split.name} {split.digest}" for split in splits),
        }
        if is_finished(folder, request, upload):
            return folder
        check_begun(work / REQUEST, request)
        write_request(work / REQUEST, request, upload)
        job = Job(options.name, source.stores, folder, upload)
        reports = write_all(write_objects, job, _plan(splits, options.shard_bytes), work, processes)
        _write_metadata(job, splits, classes, reports, request)
    return folder


def _read_splits(source: Coco, work: Path) -> tuple[list[Split], Categories]:
    """Checks the annotations of all splits, writes them to `work`, and returns the splits and their classes."""
    splits, classes, of = [], None, None
    for file in source.files:
        parsed = parse_coco(file.read(), file.title)
        found = check_categories(parsed.categories, file.title)
        if classes is not None and found != classes:
            raise UserError(
                f"{file.title} has other categories than {of.title}, or in another order: make ids, names and order "
                "the same"
            )
        classes, of = found, file
        images = check_images(parsed.images, file.title)
        place = source.prefix(file, images.names)
        if place is None:
            print(f"{file.title}: left out, because its images are not given, such as {images.names[0]}", flush=True)
            continue
        splits.append(_write_rows(source, file, parsed.annotations, images, classes, work, place))
        missing = (splits[-1].sizes < 0).sum()
        print(
            f"{file.title}: {len(images):,} images of {file.split}, {len(parsed.annotations):,} annotations, "
            f"{len(classes.ids)} classes{f'; {missing:,} images are missing' if missing else ''}",
            flush=True,
        )
    if not splits:
        source.refuse_no_images()
    return splits, classes


def _write_rows(
    source: Coco,
    file: AnnotationFile,
    annotations: Sequence[tuple[Any, ...]],
    images: Images,
    classes: Categories,
    work: Path,
    place: tuple[int, str],
) -> Split:
    """Writes a line of JSON for each image, with its place and annotations, and the offsets of the lines.

    Args:
      source: the stores.
      file: JSON file of the split.
      annotations: its annotations, see `Parsed`.
      images: its images.
      classes: its classes.
      work: folder of the lines.
      place: store and folder of the images, see `Coco.prefix`.
    """
    checked, problems = check_annotations(annotations, images.ids, images.sizes, classes.ids, file.title, masks=True)
    place_of = {number: row for row, number in enumerate(images.ids.tolist())}
    kept, of_image = set(checked.ids.tolist()), [[] for _ in images.names]
    for fields in annotations:
        if fields[0] in kept:
            of_image[place_of[fields[1]]].append(fields)
    store, prefix = place
    sizes, offsets, digest = np.full(len(images), -1, np.int64), [0], hashlib.sha256()
    digest.update(json.dumps([classes.ids, classes.names]).encode())
    with (work / f"{file.split}.rows").open("wb") as lines:
        for row, name in enumerate(images.names):
            size, checksum = source.stores[store].members.get(f"{prefix}{name}", (-1, ""))
            sizes[row] = size
            line = json.dumps(
                {
                    "image": images.entry(row),
                    "store": store,
                    "member": f"{prefix}{name}",
                    "annotations": list(map(as_entry, of_image[row])),
                }
            ).encode()
            of_image[row] = []
            offsets.append(offsets[-1] + lines.write(line))
            digest.update(line + f"{size} {checksum}\n".encode())
    np.save(work / f"{file.split}.offsets.npy", np.array(offsets, np.int64))
    usable = checked.labels[checked.used & ~checked.crowd]
    counts = np.bincount(usable, minlength=len(classes.ids))
    has_masks = checked.segments is not None
    return Split(file.split, images, sizes, problems, has_masks, counts, checked.counts(), digest.hexdigest()[:12])


def _plan(splits: Sequence[Split], shard_bytes: int) -> list[Shard]:
    """Returns the shards of every split; the images of a split are in a fixed random order."""
    shards = []
    for split in splits:
        members = np.flatnonzero(split.sizes >= 0)
        order = np.random.default_rng(_SEED).permutation(len(members))
        groups = list(by_size(order, split.sizes[members], shard_bytes))
        shards += [Shard(split.name, number, len(groups), members[group]) for number, group in enumerate(groups)]
    return shards


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


def write_objects(job: Job, shard: Shard, reports: Path) -> int:
    """Writes a shard of images and annotations, then its report, and returns the number of bytes read.

    The files are copied unchanged, except images that not every reader decodes, see `checked_image`. The report
    contains, in addition to that of `ShardWriter`, `written` (numbers of the images in the split).
    """
    offsets, read, written = np.load(reports / f"{shard.split}.offsets.npy"), 0, []
    with (
        contextlib.ExitStack() as stack,
        (reports / f"{shard.split}.rows").open("rb") as lines,
        ShardWriter(job.name, job.out, shard, features(), reports, job.upload) as writer,
    ):
        archives = [stack.enter_context(Zip(store.path)) if store.is_zip else None for store in job.stores]
        for member in shard.members.tolist():
            lines.seek(offsets[member])
            row = json.loads(lines.read(int(offsets[member + 1] - offsets[member])))
            image, name = row["image"], row["image"]["file_name"]
            try:
                encoded = job.stores[row["store"]].read(archives[row["store"]], row["member"])
                read += len(encoded)
                checked, name = writer.normalized(name, encoded)
                height, width = decode(checked).shape[:2]
                if (height, width) != (image["height"], image["width"]):
                    raise UnreadableImageError(
                        f"it has {width}x{height} pixels, its annotations are for {image['width']}x{image['height']}"
                    )
            except UnreadableImageError as error:
                writer.reject(name, error)
                continue
            annotations = json.dumps(row["annotations"], separators=(",", ":"))
            example = {"image": checked, "file_name": name, "image_id": image["id"], "annotations": annotations}
            digest = hashlib.sha256(checked + annotations.encode()).hexdigest()
            writer.add(example, len(checked), f"{name} {image['id']} {digest}")
            written.append(member)
        writer.finish(written=written)
    return read


def _write_metadata(
    job: Job,
    splits: Sequence[Split],
    classes: Categories,
    reports: Sequence[tuple[Shard, dict[str, Any]]],
    request: Mapping[str, Any],
) -> None:
    """Writes the manifest, the TFDS metadata and the card, which marks the data set as complete, and prints them."""
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
    """Writes ids, sizes and numbers of annotations of the images of a split, in the order of the records."""
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
