"""The outcome of every source file: an example, rejected, or left out; lists, counts and checks."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import PurePosixPath

import numpy as np

from focalnet_jax.data.prepare.containers import Container
from focalnet_jax.data.prepare.index import GOOD, LEFT_OUT, NO_IMAGE, NOT_LISTED, OUTSIDE, TEST, WHY_NOT, Index
from focalnet_jax.data.prepare.kinds import Sources
from focalnet_jax.data.prepare.naming import SPLITS, abbreviated, in_order, is_imagenet_file
from focalnet_jax.data.prepare.plan import is_example
from focalnet_jax.data.prepare.samples import TEXT_LABELS
from focalnet_jax.errors import UserError

_TEST_KIND = "test images without labels"
_MOST_NUMBERS = 100_000  # largest number of numbered classes; larger labels are ids of something else


def found_class_names(sources: Sources, indices: Sequence[Index]) -> tuple[str, ...]:
    """Returns the class names of the training images, sorted as other folder readers sort them.

    Sources without training images are an evaluation set, with the classes of its images.

    Numeric labels without names stay numbers: class 7 has label 7.

    Raises:
      UserError: a class folder is empty, or the labels cannot be classes.
    """
    train = SPLITS.index("train")
    for container, index in zip(sources.containers, indices, strict=True):
        if container.class_name and container.split == "train" and not any(index.members["why_not"] == GOOD):
            advice = "fill it, remove it, or give --classes FILE"
            if any(name.endswith(b".parquet") for name in index.members["name"].tolist()):
                advice = "prepare Parquet files with the kind parquet"
            raise UserError(f"class {container.title} holds no images{_of_kinds(index)}: {advice}")
    _refuse_captions(indices)
    trains = any(((index.members["split"] == train) & (index.members["why_not"] == GOOD)).any() for index in indices)
    found = set()
    for index in indices:
        wanted = ((index.members["split"] == train) | (not trains)) & (index.members["why_not"] == GOOD)
        found |= {name.decode() for name in np.unique(index.members["class_name"][wanted]).tolist()}
    numbers = {name for name in found if name.isascii() and name.isdigit()}
    if numbers and all(container.holds != "images" for container in sources.containers):
        if numbers != found:
            raise UserError(
                f"some labels are numbers, such as {min(numbers)}, others names, such as {min(found - numbers)}: give "
                "--classes FILE, the names in the order of the numbers"
            )
        largest = max(map(int, numbers))
        if largest >= _MOST_NUMBERS:
            raise UserError(f"label {largest} is too large for a class index: give --classes FILE, or other labels")
        print(f"labels are numbers without names: the class names are 0 to {largest}; --classes FILE sets others")
        return tuple(map(str, range(largest + 1)))
    return in_order(found)


def _of_kinds(index: Index) -> str:
    kinds = Counter(PurePosixPath(name.decode(errors="replace")).suffix for name in index.members["name"].tolist())
    return f" but {abbreviated([f'{count} {kind}' for kind, count in kinds.most_common()])}" if kinds else ""


def _refuse_captions(indices: Sequence[Index]) -> None:
    """Raises `UserError` if the labels from .txt files are mostly different, and so captions."""
    texts = sum(index.skipped.get(TEXT_LABELS, 0) for index in indices)
    different = len({name for index in indices for name in np.unique(index.members["class_name"]).tolist()})
    if texts > 3 and different > texts / 2:
        raise UserError(
            f"the .txt files of the images hold {different} different texts for {texts} images: captions, not classes; "
            "expected .cls files, or a label in .json"
        )


def check_listed(sources: Sources, indices: Sequence[Index]) -> None:
    """Raises `UserError` if ImageNet validation images are missing from the label list."""
    for container, index in zip(sources.containers, indices, strict=True):
        if container.imagenet and container.holds == "images":
            is_val = index.members["split"] == SPLITS.index("val")
            without = index.members["name"][is_val & (index.members["why_not"] == NOT_LISTED)]
            if len(without):
                raise UserError(
                    f"{container.title} holds {len(without)} images that the label list lacks, such as "
                    f"{without[0].decode(errors='replace')}: give the complete list with --val-labels"
                )


def refuse_shifted(indices: Sequence[Index], classes: Sequence[str]) -> None:
    """Raises `UserError` if numeric labels seem to start at 1: some exceed the classes, and none is 0."""
    beyond = sum(int((index.members["why_not"] == OUTSIDE).sum()) for index in indices)
    if beyond and classes and not any((index.members["class_name"] == classes[0].encode()).any() for index in indices):
        raise UserError(
            f"{beyond} labels are outside the {len(classes)} classes, and none is 0 ({classes[0]}): they seem to start "
            "at 1; give --classes FILE with a first line for 0, or labels from 0"
        )


def refuse_repeated(sources: Sources, indices: Sequence[Index]) -> None:
    """Raises `UserError` if an ImageNet-1K image occurs twice, as with an archive and an unpacked copy of it."""
    titles, files = [], []
    for container, index in zip(sources.containers, indices, strict=True):
        if container.imagenet:
            found = index.members["file"][index.members["why_not"] == GOOD]
            titles += [container.title] * bool(len(found))
            files.append(found)
    if not files:
        return
    names, counts = np.unique(np.concatenate(files), return_counts=True)
    repeated = [name for name in names[counts > 1].tolist() if is_imagenet_file(name.decode(errors="replace"))]
    if repeated:
        name = repeated[0]
        holding = [title for title, found in zip(titles, filter(len, files), strict=True) if (found == name).any()]
        raise UserError(
            f"{len(repeated)} images occur more than once, such as {name.decode(errors='replace')} in "
            f"{' and in '.join(holding[:2])}: give one of these sources"
        )


def refuse_no_examples(
    sources: Sources, indices: Sequence[Index], classes: Sequence[str], splits: Collection[str]
) -> None:
    """Raises `UserError` if no image is usable, or none of the training or validation images.

    `splits` are the splits with examples.
    """
    rows = left_out(sources.containers, indices, classes)
    lost = [split for split in ("train", "val") if split not in splits]
    rows = [row for row in rows if not splits or (row[0] in lost and row[2] == "rejected")]
    if splits and not rows:
        return
    counted = "; ".join(f"{count}: {reason}" for reason, count in Counter(reason for *_, reason in rows).most_common(3))
    of = f" of {rows[0][0]}" if splits else ""
    raise UserError(
        f"no image{of} of a known class was found in {sources.containers[0].path}{f' ({counted})' if counted else ''}"
    )


def left_out(
    containers: Sequence[Container], indices: Sequence[Index], classes: Sequence[str]
) -> list[tuple[str, str, str, str]]:
    """Returns (split, name, status, reason) of members that are not decoded; status is rejected or left out."""
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
    """Returns the number of files left out because they are not examples, by suffix or kind, such as hidden."""
    kinds: Counter[str] = Counter()
    for index in indices:
        kinds.update({kind: count for kind, count in index.skipped.items() if kind != TEXT_LABELS})
        kinds[_TEST_KIND] += int((index.members["why_not"] == TEST).sum())
        names = index.members["name"][index.members["why_not"] == NO_IMAGE].tolist()
        kinds.update(PurePosixPath(name.decode(errors="replace")).suffix.lower() or "no suffix" for name in names)
    return +kinds


def count_files(indices: Sequence[Index]) -> int:
    """Returns the total number of files, rows and links."""
    skipped = sum(count for index in indices for kind, count in index.skipped.items() if kind != TEXT_LABELS)
    return sum(map(len, indices)) + skipped


def describe_sources(containers: Sequence[Container]) -> list[str]:
    """Returns one line per split, with its sources."""
    lines = []
    for split in (*SPLITS, None):
        of = [container for container in containers if container.split == split]
        of = [container for container in of if not container.direct] or of
        kinds = Counter(map(_kind, of))
        counted = " and ".join(f"{count:,} {kind}{'s' if count > 1 else ''}" for kind, count in sorted(kinds.items()))
        if of:
            place = os.path.commonpath([container.path for container in of])
            lines.append(f"{split or 'splits by folder'}: {counted} of {place}")
    return lines


def _kind(container: Container) -> str:
    if container.size is None:
        return "folder"
    return {"images": "tar", "samples": "shard", "rows": "Parquet file"}[container.holds]
