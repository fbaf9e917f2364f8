"""Prepares images with objects in COCO's format: writes the shards, the TFDS metadata and the card.

A record has the bytes of the image and its annotations as JSON, as they are in COCO's file; `CocoRecords` reads them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from focalnet_jax.data.coco.annotations import check_annotations
from focalnet_jax.data.coco.entries import Categories, Images, check_categories, check_images
from focalnet_jax.data.coco.parsing import as_entry, parse_coco
from focalnet_jax.data.decode import UnreadableImageError, decode
from focalnet_jax.data.prepare.buckets import Upload
from focalnet_jax.data.prepare.coco import AnnotationFile, Coco
from focalnet_jax.data.prepare.metadata import VERSION
from focalnet_jax.data.prepare.object_metadata import Job, Split, features, write_metadata
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
from focalnet_jax.data.prepare.shards import ShardWriter
from focalnet_jax.data.prepare.zips import Zip
from focalnet_jax.data.source import fingerprint_of
from focalnet_jax.errors import UserError

_SEED = 0


def prepare_coco(source: Coco, out: Path, options: PrepareOptions, processes: int, address: str = "") -> Path:
    """Prepares the images and annotations of a source, or resumes their preparation.

    Args:
      source: annotations and images.
      out: parent folder of the data set.
      options: options that determine the result.
      processes: number of worker processes.
      address: parent folder in a bucket to which the data set is moved from `out`; "" to leave it in `out`.

    Returns:
      The local folder of the data set, `out`/NAME/1.0.0.

    Raises:
      UserError: the annotations are damaged or inconsistent, an archive is damaged, or `out` contains another data set.
      RunFailedError: a worker process died, or the bucket does not answer.
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
        write_metadata(job, splits, classes, reports, request)
    return folder


def _read_splits(source: Coco, work: Path) -> tuple[list[Split], Categories]:
    """Checks all annotations, writes those of splits with images to `work`; returns these splits and the classes."""
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

    Returns the split.

    Args:
      source: the stores.
      file: JSON file of the split.
      annotations: annotations in the file, see `Parsed`.
      images: images in the file.
      classes: classes of the data set.
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


def write_objects(job: Job, shard: Shard, reports: Path) -> int:
    """Writes a shard of images and annotations, then its report, and returns the number of bytes read.

    The files are copied unchanged, except images that not every reader decodes, see `checked_image`. The report has the
    keys of `ShardWriter`, and `written`: the index in the split of each image in the shard.
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
