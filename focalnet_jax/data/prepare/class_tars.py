"""Finds the containers in tars: one tar per class or split, a tar of tars, or a tar of images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from focalnet_jax.data.prepare.containers import Container, tar, tar_members
from focalnet_jax.data.prepare.inspection import TarContents, inspect_tar
from focalnet_jax.data.prepare.layouts import (
    mixed_splits,
    split_below,
)
from focalnet_jax.data.prepare.naming import (
    has_image_suffix,
    is_hidden,
    is_imagenet_file,
    is_synset,
    is_tar,
    splits_in,
    tar_stem,
)
from focalnet_jax.data.prepare.rows import is_parquet
from focalnet_jax.data.split_names import split_named, split_word
from focalnet_jax.errors import UserError, abbreviated

_LOOKED_INTO = 16  # inspect at most this number of tars that are named after synsets; a folder may contain 22,000


def class_tars(path: Path, tars: Sequence[Path], split: str | None) -> list[Container]:
    """Returns the containers of a folder's tars: one per class, or parts of splits if all are named after splits.

    Raises:
      UserError: a tar is a WebDataset shard, or contains tars, splits or several classes.
    """
    parts = bool(tars) and not split and all(splits_in(tar_stem(entry.name)) for entry in tars)
    found = []
    for number, entry in enumerate(tars):
        container = tar(entry, split=split or "train", class_name=tar_stem(entry.name))
        inspected = parts or number < _LOOKED_INTO or not is_synset(tar_stem(entry.name))
        inside = inspect_tar(container) if inspected else None
        if inside and inside.tars and not inside.images:
            raise UserError(f"{entry} contains further tars, such as {inside.tars[0]}: give it alone, or unpack it")
        if inside and (inside.has_labels or (inside.is_shard and tar_stem(entry.name)[-3:].isdigit())):
            raise UserError(
                f"{entry} is a WebDataset shard, with {abbreviated(sorted(inside.labels))} for each image, not the tar "
                "of a class: prepare it with the kind webdataset"
            )
        if parts:
            found += _part(entry, inside)
            continue
        _refuse_splits_in(entry, inside)
        folders = _folders_in(entry, inside)
        if len(folders) > 1 and not any("/" not in name for name in inside.images):
            raise UserError(
                f"{entry} contains several folders, such as {abbreviated(sorted(folders))}, but should be one class: "
                f"if the folders are classes, give the tars themselves with --source {path}/*.tar"
            )
        found.append(container)
    return found


def _refuse_splits_in(entry: Path, inside: TarContents | None) -> None:
    """Raises `UserError` if all images in the tar of a class are in split folders."""
    found = (
        [next(filter(split_named, PurePosixPath(name).parts[:-1]), None) for name in inside.images] if inside else []
    )
    if found and all(found):
        raise UserError(split_below(str(entry.parent), entry.name, found[0]))


def _folders_in(entry: Path, inside: TarContents | None) -> frozenset[str]:
    """Returns the folders directly below the path that all images in a tar share; they may be several classes.

    The result is empty if a folder in the shared path has the name of the tar, because the tar is then one class.
    """
    if not inside or not inside.images:
        return frozenset()
    parents = {PurePosixPath(name).parent for name in inside.images}
    common = PurePosixPath(os.path.commonpath(map(str, parents))).parts
    if tar_stem(entry.name) in common:
        return frozenset()
    below = (parent.parts[len(common) :] for parent in parents)
    return frozenset(parts[0] for parts in below if parts) - {tar_stem(entry.name)}


def _part(entry: Path, inside) -> list[Container]:
    named = splits_in(tar_stem(entry.name))
    if len(named) > 1 or inside.flat:
        kind = "imagenet1k" if any(map(is_imagenet_file, inside.images)) else "webdataset"
        raise UserError(
            f"{entry} is named after {' and '.join(sorted(named))}; expected one split with images in class folders, "
            f"found {abbreviated(inside.images, 1) or 'no images'}: try the kind {kind}"
        )
    return [tar(entry, split=named.pop())]


def tar_at(path: Path, split: str | None = None, *, imagenet: bool = False) -> list[Container]:
    """Returns the containers of the tars inside a tar, or of the tar itself if it contains images.

    Raises:
      UserError: the tar is damaged, unsafe or of a different kind, or contains both images and tars.
    """
    if is_parquet(path):
        raise UserError(f"{path} is a Parquet file: prepare it with the kind parquet")
    whole = tar(path, split=split, imagenet=imagenet)
    inside = inspect_tar(whole)
    if inside.tars and not any("/" in name for name in inside.images):
        if whole.packed:
            raise UserError(f"{path} is compressed, so the tars inside it cannot be read in place: decompress it first")
        return inner_tars(whole)
    if inside.is_shard and not imagenet:
        raise UserError(
            f"{path} is a WebDataset shard, with {abbreviated(sorted(inside.labels))} for each image: prepare it with "
            "the kind webdataset"
        )
    return [whole]


def inner_tars(whole: Container) -> list[Container]:
    """Returns the containers inside a tar of tars: one tar per class, or one per split.

    Raises:
      UserError: a tar inside is compressed, or images, splits and classes are mixed.
    """
    inner, images, others, split = [], "", 0, whole.split
    for member, _ in tar_members(whole):
        if is_hidden(member.name):
            continue
        if not is_tar(member.name):
            images = images or (member.name if has_image_suffix(member.name) else "")
            others += 1
            continue
        if not member.name.lower().endswith(".tar"):
            raise UserError(f"{whole.title} contains the compressed tar {member.name}: unpack it first")
        inside = PurePosixPath(member.name)
        named = next(filter(None, map(split_named, inside.parts[:-1])), None)
        part = Container(
            whole.path, member.offset_data, member.size, split or named or "train", inside.stem,
            imagenet=whole.imagenet, time=whole.time,
        )  # fmt: skip
        inner.append(part)
    if images and inner:
        raise UserError(
            f"{whole.title} contains both images, such as {images}, and tars, such as {inner[0].class_name}.tar: "
            "unpack it, or give them separately"
        )
    loose = [replace(whole, split=split or "train", direct=True)] if others else []  # only to count these files
    splits = [] if split else [part for part in inner if split_word(part.class_name)]
    if splits and len(splits) < len(inner):
        other = next(part for part in inner if part not in splits)
        raise UserError(mixed_splits(whole.title, f"{splits[0].class_name}.tar", f"{other.class_name}.tar"))
    if splits:
        return [found for part in splits for found in _of_split(part)] + loose
    return sorted(inner, key=lambda container: container.class_name or "") + loose


def _of_split(part: Container) -> list[Container]:
    """Returns the containers of an inner tar that is a whole split, with class folders or one tar per class."""
    whole = replace(part, split=split_word(part.class_name), class_name=None)
    inside = inspect_tar(whole)
    if inside.is_shard and not part.imagenet:
        raise UserError(f"{whole.title} is a WebDataset shard: unpack the outer tar, and use the kind webdataset")
    return inner_tars(whole) if inside.tars else [whole]
