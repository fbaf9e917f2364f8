"""Indexes a folder or tar of images. The container or the path of an image determines its split and class."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import BinaryIO

from focalnet_jax.data.prepare.containers import OVERWRITTEN, Container, File, files
from focalnet_jax.data.prepare.image_classes import Parts, listed_synset, place_imagenet, proven_synset
from focalnet_jax.data.prepare.index import (
    GOOD,
    NO_FOLDER,
    NO_IMAGE,
    OTHER_CLASS,
    Claim,
    Index,
    Member,
)
from focalnet_jax.data.prepare.labels import Labels
from focalnet_jax.data.prepare.layouts import (
    copied_classes,
    copy_of_classes,
    mixed_splits,
    no_class_folders,
    split_below,
    unclear_class,
)
from focalnet_jax.data.prepare.naming import (
    SPLITS,
    evaluation_split,
    has_image_suffix,
    holds_images_only,
    is_synset,
    leading_synset,
    may_be_image,
)
from focalnet_jax.data.split_names import split_named
from focalnet_jax.errors import UserError, abbreviated


def index_images(container: Container, labels: Labels, spool: BinaryIO | None = None) -> Index:
    """Returns the index of a folder or tar of images. The images of a compressed tar are written to `spool`, if given.

    Raises:
      UserError: a tar is damaged, unsafe or a WebDataset shard, a file cannot be read, or splits and classes are mixed.
    """
    skipped: Counter[str] = Counter()
    found: dict[str, File] = {}  # the last of several members with the same name counts, as when a tar is unpacked
    for file in files(container, skipped, spool):
        skipped[OVERWRITTEN] += file.name in found
        found[file.name] = file._replace(read=bytes)
    _refuse_shard(container, found)
    paths = [PurePosixPath(name).parts for name in found]
    claims: Counter[Claim] = Counter()
    placed = _imagenet(container, labels, paths, claims) if container.imagenet else _by_path(container, paths)
    if not container.imagenet:
        claims = _folder_claims(paths, placed)
    members = [
        Member(file.name, file.offset, file.size, file.time, name, split, below, why_not)
        for file, (split, name, below, why_not) in zip(found.values(), placed, strict=True)
    ]
    for name in {member.class_name for member in members}:
        check_utf8(container, name)
    return Index.of(members, +skipped, claims)


def check_utf8(container: Container, name: str) -> None:
    """Raises `UserError` if the name of a class is not valid UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{container.title}: the name of the class folder {name!r} is not UTF-8; rename it") from error


def sample_key(name: str) -> str:
    """Returns the key of the sample to which a file in a shard belongs: the path up to the first dot in the name."""
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.partition(".")[0]


def _refuse_shard(container: Container, names: Iterable[str]) -> None:
    if container.size is None:
        return
    labelled = {sample_key(name) for name in names if name.lower().endswith(".cls")}
    if labelled and any(has_image_suffix(name) and sample_key(name) in labelled for name in names):
        raise UserError(
            f"{container.title} is a WebDataset shard, with a .cls for each image, not a tar of classes: prepare it "
            "with the kind webdataset"
        )


def _folder_claims(paths: Sequence[Parts], placed: Sequence[tuple[int, str, str, int]]) -> Counter[Claim]:
    """Returns the number of images by claim, of images whose path proves a synset but whose class is not a synset."""
    claims: Counter[Claim] = Counter()
    for parts, (split, name, _, why_not) in zip(paths, placed, strict=True):
        if why_not == GOOD and not is_synset(name) and (proven := proven_synset(parts, name=name)):
            claims[Claim(name, name, proven, stated=True, split=SPLITS[split])] += 1
    return claims


def _imagenet(
    container: Container, labels: Labels, paths: Sequence[Parts], claims: Counter[Claim]
) -> list[tuple[int, str, str, int]]:
    """Returns split, class, file name and `WHY_NOT` index of each path.

    Images with a class in the label list and a proven class are counted in `claims`.
    """
    placed = []
    splits = [_split_of(container, parts) for parts in paths]
    _refuse_mixed(container, paths, splits)
    for parts, found in zip(paths, splits, strict=True):
        split = found or "train"
        folder = container.class_name or next((part for part in reversed(parts[:-1]) if is_synset(part)), None)
        listed = listed_synset(labels, parts, split)
        if listed and (proven := proven_synset((*([folder] if folder else []), parts[-1]))):
            claims[Claim(listed, listed, proven, stated=True, split=split)] += 1
        placed.append((SPLITS.index(split), *place_imagenet(parts, [folder, listed], test=split == "test")))
    return placed


def _split_of(container: Container, parts: Parts) -> str | None:
    """Returns the split of an ImageNet image, or None if it is unknown.

    It is the split of the container, else of the image's folders, else of its file name.

    Raises:
      UserError: a tar that is named after one split contains a folder of a different split.
    """
    folder = next(filter(None, map(split_named, parts[:-1])), None)
    is_other = container.split and container.size is not None and folder not in (None, container.split)
    if is_other and has_image_suffix(parts[-1]):
        raise UserError(
            f"{container.title} is named after {container.split} but contains {folder}: rename or unpack it"
        )
    return container.split or folder or evaluation_split(parts[-1])


def _refuse_mixed(container: Container, paths: Sequence[Parts], splits: Sequence[str | None]) -> None:
    """Raises `UserError` if some images are in folders of splits, and others in folders without a split."""
    found = [(parts, split) for parts, split in zip(paths, splits, strict=True) if has_image_suffix(parts[-1])]
    without = next((parts for parts, split in found if split is None and len(parts) > 1), None)
    named = next((parts for parts, split in found if split and any(map(split_named, parts[:-1]))), None)
    if without and named and not container.direct:
        raise UserError(mixed_splits(container.title, "/".join(named[:-1]), "/".join(without[:-1])))


def _by_path(container: Container, paths: Sequence[Parts]) -> list[tuple[int, str, str, int]]:
    split = SPLITS.index(container.split or "train")
    if container.class_name:
        name = container.class_name
        return [(split, *_agreed(name, parts, parts[1:] if parts[0] == name else parts)) for parts in paths]
    if container.direct:
        return [(split, "", "/".join(parts), NO_FOLDER if may_be_image(parts[-1]) else NO_IMAGE) for parts in paths]
    return _splits_and_classes(container, paths)


def _agreed(named: str, parts: Parts, below: Parts) -> tuple[str, str, int]:
    """Returns class, file name and `WHY_NOT` index of a file in the class folder `named`.

    The image is rejected if the folder is a synset and the file name begins with a different synset.
    """
    file = parts[-1]
    if not may_be_image(file):
        return "", "/".join((named, *below)), NO_IMAGE
    synset = leading_synset(file)
    if synset and is_synset(named) and synset != named:
        return "", "/".join((named, *below)), OTHER_CLASS
    return named, "/".join((named, *below)), GOOD


def _splits_and_classes(container: Container, paths: Sequence[Parts]) -> list[tuple[int, str, str, int]]:
    """Returns split, class, file name and `WHY_NOT` index of each path.

    The paths are [SHARED/][SPLIT/][SHARED/]CLASS/**/FILE, where SHARED are folders above all classes.
    """
    images = [parts for parts in paths if has_image_suffix(parts[-1])]  # files such as README have no class
    images = images or [parts for parts in paths if may_be_image(parts[-1])]
    split_at = _split_depth(container, images)
    start = 0 if split_at is None else split_at + 1
    below = [parts[start:] for parts in images if len(parts) > start + 1]
    shared = below[0][: _shared_folders(below)] if below else ()
    if split_at is not None:  # same rule as for folders, see `folders._shared_below`
        unclear = next((name for name in shared if not (holds_images_only(name) or split_named(name))), None)
        if unclear and not is_synset(unclear):
            raise UserError(unclear_class(container.title, unclear, sorted({parts[len(shared)] for parts in below})))
        shared = shared[: shared.index(unclear)] if unclear else shared
    start += len(shared)
    _refuse_sets_below(container, [parts[start:] for parts in images if len(parts) > start])
    placed = []
    for parts in paths:
        named = split_named(parts[split_at]) if split_at is not None and len(parts) > split_at + 1 else None
        if named and container.split not in (None, named):
            raise UserError(f"{container.title} is named after {container.split} but contains {named}: rename it")
        split = SPLITS.index(container.split or named or "train")
        if len(parts) > start + 1:
            placed.append((split, *_agreed(parts[start], parts, parts[start + 1 :])))
        else:
            placed.append((split, "", "/".join(parts), NO_FOLDER if may_be_image(parts[-1]) else NO_IMAGE))
    for split in {row[0] for row in placed}:
        _check_classes(container, [row for row in placed if row[0] == split], SPLITS[split])
    return placed


def _refuse_sets_below(container: Container, images: Sequence[Parts]) -> None:
    """Raises `UserError` if a class folder contains no images, but folders named after synsets or other classes."""
    below: dict[str, set[str]] = {}
    for parts in images:
        below.setdefault(parts[0], set()).add(parts[1] if len(parts) > 2 else "")
    for name, folders in below.items():
        if copied_classes(below, sorted(folders)):
            raise UserError(copy_of_classes(container.title, name, sorted(folders)))
        if not is_synset(name) and len(folders) > 1 and all(map(is_synset, folders)):
            raise UserError(
                f"{container.title}: {name} contains class folders, such as {abbreviated(sorted(folders), 2)}, so it "
                f"is not a class; unpack the archive and give {name}, or rename it to train or val if it is a split"
            )


def _check_classes(container: Container, placed: Sequence[tuple[int, str, str, int]], split: str) -> None:
    without = [file for _, name, file, why_not in placed if why_not == NO_FOLDER]
    if without and not any(name for _, name, _, _ in placed):
        raise UserError(no_class_folders(container.title, split, without))


def _common(paths: Sequence[Parts]) -> Parts:
    """Returns the leading folders that all paths share."""
    folders = [parts[:-1] for parts in paths]
    if not folders:
        return ()
    pairs = zip(min(folders), max(folders), strict=False)
    return tuple(a for a, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def _shared_folders(images: Sequence[Parts]) -> int:
    """Returns the number of folders that all paths share above the class folders."""
    shared = len(_common(images))
    # If files are directly in the shared folder, that folder is their class.
    return max(shared - any(len(parts) == shared + 1 for parts in images), 0)


def _split_depth(container: Container, images: Sequence[Parts]) -> int | None:
    """Returns the index of the split among the parts of every path, or None if the paths have no split.

    Raises:
      UserError: only some paths have a split, or the splits are below the classes.
    """
    common = _common(images)
    depth = next((depth for depth, part in enumerate(common) if split_named(part)), None)
    if depth is not None:
        return depth
    depth = len(common)
    having = [parts for parts in images if len(parts) > depth + 1 and split_named(parts[depth])]
    others = [parts for parts in images if len(parts) <= depth + 1 or not split_named(parts[depth])]
    if having and not others:
        return depth
    if having and any(len(parts) > depth + 1 for parts in others):
        other = next(parts for parts in others if len(parts) > depth + 1)
        raise UserError(mixed_splits(container.title, having[0][depth], other[depth]))
    if having:  # the other images are next to the splits and have no class
        return depth
    below = [parts for parts in images if any(map(split_named, parts[depth + 1 : depth + 2][: len(parts) - depth - 2]))]
    if len(below) == len(images) and below:
        raise UserError(split_below(container.title, below[0][depth], below[0][depth + 1]))
    return None
