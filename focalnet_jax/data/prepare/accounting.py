"""Counts and describes the source files: examples, rejected images and files that are left out."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from focalnet_jax.data.prepare.containers import Container
from focalnet_jax.data.prepare.index import LEFT_OUT, NO_IMAGE, TEST, WHY_NOT, Index
from focalnet_jax.data.prepare.kinds import KINDS, SourceKind, Sources
from focalnet_jax.data.prepare.naming import (
    NUM_IMAGES,
    SPLITS,
    imagenet_file,
)
from focalnet_jax.data.prepare.plan import is_example
from focalnet_jax.data.prepare.samples import TEXT_LABELS
from focalnet_jax.errors import UserError

_TEST_KIND = "test images without labels"


def describe_missing(sources: Sources, indices: Sequence[Index]) -> list[str]:
    """Returns a note if the sources lack validation images of the label list, else an empty list."""
    absent = set(sources.labels.stems or ())
    for index in indices if absent else ():
        names = index.members["file"][index.members["split"] == SPLITS.index("val")].tolist()
        absent -= {imagenet_file(PurePosixPath(name.decode(errors="replace")).name)[0] for name in names}
    if not absent:
        return []
    return [
        f"note: {len(absent):,} of the {len(sources.labels.stems):,} images in the label list are missing, such as "
        f"{min(absent)}"
    ]


def describe_incomplete(kind: SourceKind, card: Mapping[str, Any]) -> list[str]:
    """Returns a note if ImageNet-1K is incomplete although every class has training images, else an empty list.

    Sources that lack classes are assumed to be a deliberate subset.
    """
    counts = {split: of["examples"] for split, of in card["splits"].items() if split in NUM_IMAGES}
    full = all(of.get("train") for of in card["classes"].values())
    if kind != KINDS["imagenet1k"] or not full or counts == NUM_IMAGES:
        return []
    present = " and ".join(
        f"{counts.get(split, 0):,} of {count:,} {split} images" for split, count in NUM_IMAGES.items()
    )
    return [f"note: {present} of ImageNet-1K are present"]


def refuse_no_examples(
    sources: Sources, indices: Sequence[Index], classes: Sequence[str], splits: Collection[str]
) -> None:
    """Raises `UserError` if there are no examples, or if train or val has images, but all of them are rejected.

    Args:
      sources: the sources.
      indices: index of each container.
      classes: class names.
      splits: names of the splits with examples.
    """
    rows = left_out(sources.containers, indices, classes)
    lost = [split for split in ("train", "val") if split not in splits]
    rows = [row for row in rows if not splits or (row[0] in lost and row[2] == "rejected")]
    if splits and not rows:
        return
    counted = "; ".join(
        f'{count} times "{reason}"' for reason, count in Counter(reason for *_, reason in rows).most_common(3)
    )
    of = f" in {rows[0][0]}" if splits else ""
    raise UserError(
        f"the sources contain no image of a known class{of}{f' ({counted})' if counted else ''}: correct the sources, "
        "the labels, the kind or --classes"
    )


def left_out(
    containers: Sequence[Container], indices: Sequence[Index], classes: Sequence[str]
) -> list[tuple[str, str, str, str]]:
    """Returns (split, name, status, reason) of each member that is not an example.

    The status is "left out" for test images without labels and for files that are not images, else "rejected".
    """
    listed = {name.encode() for name in classes}
    rows = []
    for container, index in zip(containers, indices, strict=True):
        for member in index.members[~is_example(index, listed)]:
            why_not, name = int(member["why_not"]), member["file"].decode(errors="replace")
            if not name.strip("/"):
                name = container.title
            reason = WHY_NOT[why_not] or f"class {member['class_name'].decode(errors='replace')} is not in the list"
            rows.append((SPLITS[member["split"]], name, "left out" if why_not in LEFT_OUT else "rejected", reason))
    return rows


def count_left_out(indices: Sequence[Index]) -> Counter[str]:
    """Returns the number of files left out, by suffix or by kind such as "hidden". Rejected images are not counted."""
    kinds: Counter[str] = Counter()
    for index in indices:
        kinds.update({kind: count for kind, count in index.skipped.items() if kind != TEXT_LABELS})
        kinds[_TEST_KIND] += int((index.members["why_not"] == TEST).sum())
        names = index.members["name"][index.members["why_not"] == NO_IMAGE].tolist()
        kinds.update(PurePosixPath(name.decode(errors="replace")).suffix.lower() or "no suffix" for name in names)
    return +kinds


def count_files(indices: Sequence[Index]) -> int:
    """Returns the number of files, rows and repeated links in the sources, without the label files of images."""
    skipped = sum(count for index in indices for kind, count in index.skipped.items() if kind != TEXT_LABELS)
    return sum(map(len, indices)) + skipped


def describe_sources(containers: Sequence[Container]) -> list[str]:
    """Returns one line per split, and one for containers with several splits: their number, kind and common folder."""
    lines = []
    for split in (*SPLITS, None):
        of = [c for c in containers if c.split == split and not (split is None and c.direct)]
        of = [container for container in of if not container.direct] or of
        kinds = Counter(map(_kind, of))
        counted = " and ".join(f"{count:,} {kind}{'s' if count > 1 else ''}" for kind, count in sorted(kinds.items()))
        if of:
            folder = os.path.commonpath([os.path.abspath(container.path) for container in of])
            lines.append(f"{split or 'splits by folder'}: {counted} at {folder}")
    return lines


def _kind(container: Container) -> str:
    if container.size is None:
        return "folder"
    return {"images": "tar", "samples": "shard", "rows": "Parquet file"}[container.holds]
