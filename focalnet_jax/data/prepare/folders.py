"""What a folder or a tar of classes, of splits of classes, or of a tar per class holds."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from focalnet_jax.data.prepare.containers import Container, opener_of, tar, tar_members
from focalnet_jax.data.prepare.images import mixed_splits, no_class_folders, split_below
from focalnet_jax.data.prepare.looking import Look, look_into
from focalnet_jax.data.prepare.naming import (
    has_image_suffix,
    is_hidden,
    is_imagenet_file,
    is_tar,
    some,
    split_named,
    splits_in,
    tar_stem,
)
from focalnet_jax.data.prepare.rows import is_parquet
from focalnet_jax.errors import UserError

_LOOKED_INTO = 16  # tars of a folder; a folder of classes may have 22,000
_ARCHIVES = (".zip", ".rar", ".7z", ".zst")


def containers_at(path: Path, split: str | None = None) -> list[Container]:
    """Returns what a tar, a folder of tars, of classes or of splits holds.

    Raises:
      UserError: it holds nothing of these, or splits and classes beside each other; it is of another kind.
    """
    if path.is_file():
        return tar_at(path, split)
    path = path if split else _below_single_folders(path)
    folders, tars, loose = entries_of(path)
    refuse_archives(loose)
    refuse_twice(folders + tars)
    named = {entry: split_named(entry.name if entry in folders else tar_stem(entry.name)) for entry in folders + tars}
    splits = [] if split else [entry for entry in sorted(named) if named[entry]]
    if splits:
        others = [entry.name for entry in sorted(named) if not named[entry]]
        if others:
            raise UserError(mixed_splits(f"--source {path}", splits[0].name, others[0]))
        shared = _shared_below([entry for entry in splits if entry in folders])
        found = []
        for entry in splits:
            found += containers_at(entry / shared if entry in folders else entry, named[entry])
        return found + _loose(path, loose, None)
    if not folders and not tars:
        if any(has_image_suffix(entry.name) for entry in loose):
            names = [entry.name for entry in loose if has_image_suffix(entry.name)]
            raise UserError(no_class_folders(str(path), split or "the folder", names))
        return []
    if not split:
        _refuse_splits_below(path, folders)
        if len(tars) == 1 and not folders and not look_into(tar(tars[0], split="train")).flat:
            return tar_at(tars[0]) + _loose(path, loose, None)  # it holds the classes or splits
    classes = [Container(str(entry), split=split or "train", class_name=entry.name) for entry in folders]
    return sorted(
        classes + _class_tars(path, tars, split), key=lambda container: container.class_name or container.path
    ) + _loose(path, loose, split)


def entries_of(path: Path) -> tuple[list[Path], list[Path], list[Path]]:
    """Returns the folders, tars and other files right in a folder, sorted, without hidden ones."""
    folders, tars, loose = [], [], []
    for entry in sorted(entry for entry in path.iterdir() if not is_hidden(entry.name)):
        (folders if entry.is_dir() else tars if is_tar(entry.name) else loose).append(entry)
    return folders, tars, loose


def refuse_archives(loose: Sequence[Path]) -> None:
    """Raises `UserError` if an archive of a kind that is not read is among some files."""
    for entry in loose:
        if entry.name.lower().endswith(_ARCHIVES):
            opener_of(entry)  # says what it is


def refuse_twice(entries: Sequence[Path]) -> None:
    """Raises `UserError` if something lies both unpacked and packed, or packed twice."""
    seen: dict[Path, Path] = {}
    for entry in entries:
        stem = entry.parent / (entry.name if entry.is_dir() else tar_stem(entry.name))
        if stem in seen:
            raise UserError(f"{entry.parent} holds {seen[stem].name} and {entry.name}, the same twice: move one away")
        seen[stem] = entry


def _loose(path: Path, loose: Sequence[Path], split: str | None) -> list[Container]:
    """What lies beside the classes or splits, to be counted."""
    parquet = [entry.name for entry in loose if is_parquet(entry)]
    if parquet:
        raise UserError(f"{path} holds Parquet files, such as {parquet[0]}: prepare them with the kind parquet")
    return [Container(str(path), split=split or "train", direct=True)] if loose else []


def _below_single_folders(path: Path) -> Path:
    """The folder that holds the splits or classes: below folders that hold nothing but one folder."""
    below = path
    while True:
        folders, tars, _ = entries_of(below)
        if len(folders) != 1 or tars or split_named(folders[0].name) or _has_images(below):
            break
        below = folders[0]
    if below != path and _has_images(below):
        return below.parent  # a class
    return below if folders or tars else path


def _has_images(folder: Path) -> bool:
    with os.scandir(folder) as entries:
        return any(has_image_suffix(entry.name) and not is_hidden(entry.name) for entry in entries)


def _shared_below(splits: Sequence[Path]) -> str:
    """The folder that every split holds alone above its classes, such as images in train/images/CLASS."""
    names = set()
    for split in splits:
        folders, tars, _ = entries_of(split)
        if (
            len(folders) != 1
            or tars
            or _has_images(split)
            or _has_images(folders[0])
            or len(entries_of(folders[0])[0]) < 2
        ):
            return "."
        names.add(folders[0].name)
    return names.pop() if len(names) == 1 else "."


def _refuse_splits_below(path: Path, folders: Sequence[Path]) -> None:
    """Raises `UserError` for CLASS/SPLIT or several data sets: every folder holds splits and no images of its own."""
    found = None
    for folder in folders[:_LOOKED_INTO]:
        with os.scandir(folder) as entries:
            found = next((entry.name for entry in entries if split_named(entry.name) and entry.is_dir()), None)
        if found is None or _has_images(folder):
            return
    if found:
        raise UserError(split_below(str(path), folders[0].name, found))


def _class_tars(path: Path, tars: Sequence[Path], split: str | None) -> list[Container]:
    """The tars of a folder, one per class; or parts of the splits that all of them are named for."""
    parts = bool(tars) and not split and all(splits_in(tar_stem(entry.name)) for entry in tars)
    found = []
    for number, entry in enumerate(tars):
        container = tar(entry, split=split or "train", class_name=tar_stem(entry.name))
        look = look_into(container) if number < _LOOKED_INTO or parts else None
        if look and look.tars and not look.images:
            raise UserError(f"{entry} holds tars itself, such as {look.tars[0]}: give it alone, or unpack it")
        if look and (look.says_labels or (look.is_shard and tar_stem(entry.name)[-3:].isdigit())):
            raise UserError(
                f"{entry} is a shard of WebDataset, with {some(sorted(look.labels))} beside each image, not a tar "
                "of a class: prepare it with the kind webdataset"
            )
        if parts:
            found += _part(entry, look)
            continue
        _refuse_splits_in(entry, look)
        folders = _folders_in(entry, look)
        if len(folders) > 1 and not any("/" not in name for name in look.images):
            raise UserError(
                f"{entry} holds several folders, such as {some(sorted(folders))}, where one class was expected: if "
                f"they are classes, give the tars themselves: --source {path}/*.tar"
            )
        found.append(container)
    return found


def _refuse_splits_in(entry: Path, look: Look | None) -> None:
    """Raises `UserError` if all images in the tar of a class lie in folders of splits."""
    found = [next(filter(split_named, PurePosixPath(name).parts[:-1]), None) for name in look.images] if look else []
    if found and all(found):
        raise UserError(split_below(str(entry.parent), entry.name, found[0]))


def _folders_in(entry: Path, look: Look | None) -> frozenset[str]:
    """The folders in the tar of a class, also where one that is not named for the class holds them."""
    if not look or not look.images:
        return frozenset()
    parents = {PurePosixPath(name).parent for name in look.images}
    common = PurePosixPath(os.path.commonpath(map(str, parents))).parts
    if tar_stem(entry.name) in common:
        return frozenset()
    below = (parent.parts[len(common) :] for parent in parents)
    return frozenset(parts[0] for parts in below if parts) - {tar_stem(entry.name)}


def _part(entry: Path, look) -> list[Container]:
    named = splits_in(tar_stem(entry.name))
    if len(named) > 1 or look.flat:
        kind = "imagenet1k" if any(map(is_imagenet_file, look.images)) else "webdataset"
        raise UserError(
            f"{entry} is named for the split {' and '.join(sorted(named))} and holds images in no class folders, such "
            f"as {some(look.images, 1) or 'none'}: it is no class; try the kind {kind}"
        )
    return [tar(entry, split=named.pop())]


def tar_at(path: Path, split: str | None = None, *, imagenet: bool = False) -> list[Container]:
    """Returns the tars inside a tar, one per class, or the tar itself if it holds images.

    Raises:
      UserError: it is damaged, unsafe, of another kind, or holds both.
    """
    if is_parquet(path):
        raise UserError(f"{path} is a Parquet file: prepare it with the kind parquet")
    whole = tar(path, split=split, imagenet=imagenet)
    look = look_into(whole)
    if look.tars and not any("/" in name for name in look.images):
        if whole.packed:
            raise UserError(f"{path} is compressed and holds tars, which are read in place: gunzip it first")
        return inner_tars(whole)
    if look.is_shard and not imagenet:
        raise UserError(
            f"{path} is a shard of WebDataset, with {some(sorted(look.labels))} beside each image: prepare it with the "
            "kind webdataset"
        )
    return [whole]


def inner_tars(whole: Container) -> list[Container]:
    """Returns the tars inside a tar: one per class, or one per split of classes or of tars of classes."""
    inner, images, others, split = [], "", 0, whole.split
    for member, _ in tar_members(whole):
        if is_hidden(member.name):
            continue
        if not is_tar(member.name):
            images = images or (member.name if has_image_suffix(member.name) else "")
            others += 1
            continue
        if not member.name.lower().endswith(".tar"):
            raise UserError(f"{whole.title} holds {member.name}, a compressed tar in a tar: unpack it first")
        inside = PurePosixPath(member.name)
        named = next(filter(None, map(split_named, inside.parts[:-1])), None)
        place = Container(
            whole.path, member.offset_data, member.size, split or named or "train", inside.stem,
            imagenet=whole.imagenet, time=whole.time,
        )  # fmt: skip
        inner.append(place)
    if images and inner:
        raise UserError(
            f"{whole.title} holds both images, such as {images}, and tars, such as {inner[0].class_name}.tar: unpack "
            "it, or give them apart"
        )
    loose = [replace(whole, split=split or "train", direct=True)] if others else []  # to be counted
    splits = [] if split else [place for place in inner if split_named(place.class_name)]
    if splits and len(splits) < len(inner):
        other = next(place for place in inner if place not in splits)
        raise UserError(mixed_splits(whole.title, f"{splits[0].class_name}.tar", f"{other.class_name}.tar"))
    if splits:
        return [found for place in splits for found in _of_split(place)] + loose
    return sorted(inner, key=lambda container: container.class_name or "") + loose


def _of_split(place: Container) -> list[Container]:
    """The tar of a split inside a tar: it holds class folders or a tar per class."""
    whole = replace(place, split=split_named(place.class_name), class_name=None)
    look = look_into(whole)
    if look.is_shard and not place.imagenet:
        raise UserError(
            f"{whole.title} is a shard of WebDataset: unpack the tar it lies in, and use the kind webdataset"
        )
    return inner_tars(whole) if look.tars else [whole]
