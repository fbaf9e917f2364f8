"""Finds the containers in a folder or tar that holds classes, splits with classes, or one tar per class."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from focalnet_jax.data.prepare.containers import Container, opener_of, tar, tar_members
from focalnet_jax.data.prepare.images import (
    copied_classes,
    copy_of_classes,
    mixed_splits,
    no_class_folders,
    split_below,
    unclear_class,
)
from focalnet_jax.data.prepare.inspection import TarContents, inspect_tar
from focalnet_jax.data.prepare.naming import (
    has_image_suffix,
    holds_images_only,
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

_LOOKED_INTO = 16  # number of inspected tars that are named after synsets; a folder may hold 22,000
_ARCHIVES = (".zip", ".rar", ".7z", ".zst")


def containers_of(path: Path) -> list[Container]:
    """Returns the containers of a source; without splits in it, its own name gives the split, such as val or val.tar.

    Raises:
      UserError: see `containers_at`.
    """
    own = split_named(path.resolve().name) if path.is_dir() else split_word(tar_stem(path.name))
    if not own:
        return containers_at(path)
    if path.is_file():
        folders = {part for name in inspect_tar(tar(path)).images for part in PurePosixPath(name).parts[:-1]}
        return containers_at(path, None if any(map(split_named, folders)) else own)
    below = _below_single_folders(path)
    folders, tars, _ = entries_of(below)
    has_splits = any(split_named(folder.name) for folder in folders) or any(splits_in(tar_stem(t.name)) for t in tars)
    if has_splits or (len(tars) == 1 and not folders):
        return containers_at(path)
    return containers_at(below, own)


def containers_at(path: Path, split: str | None = None) -> list[Container]:
    """Returns the containers in a tar, or in a folder of tars, classes or splits.

    Raises:
      UserError: there are no containers, splits and classes are mixed, or the source is of a different kind.
    """
    if path.is_file():
        return tar_at(path, split)
    path = path if split else _below_single_folders(path)
    folders, tars, loose = entries_of(path)
    refuse_archives(loose)
    refuse_twice(folders + tars)
    named = {entry: split_named(entry.name) for entry in folders}
    named |= {entry: split_word(tar_stem(entry.name)) for entry in tars}
    splits = [] if split else [entry for entry in sorted(named) if named[entry]]
    if splits:
        others = [entry.name for entry in sorted(named) if not named[entry]]
        if others:
            raise UserError(mixed_splits(f"--source {path}", splits[0].name, others[0]))
        found = []
        for entry in splits:
            place = _shared_below(entry) if entry in folders else entry
            found += containers_at(place, named[entry])
            if place != entry:  # files next to it, to be counted
                found += _loose(entry, entries_of(entry)[2], named[entry])
        return found + _loose(path, loose, None)
    if not folders and not tars:
        if any(has_image_suffix(entry.name) for entry in loose):
            names = [entry.name for entry in loose if has_image_suffix(entry.name)]
            raise UserError(no_class_folders(str(path), split or "the folder", names))
        return []
    _refuse_sets_below(path, folders)
    _refuse_same_folder(folders)
    if not split:
        _refuse_splits_below(path, folders)
        if len(tars) == 1 and not folders and not inspect_tar(tar(tars[0], split="train")).flat:
            return tar_at(tars[0]) + _loose(path, loose, None)  # the tar holds the classes or splits
    classes = [Container(str(entry), split=split or "train", class_name=entry.name) for entry in folders]
    return sorted(
        classes + _class_tars(path, tars, split), key=lambda container: container.class_name or container.path
    ) + _loose(path, loose, split)


def entries_of(path: Path) -> tuple[list[Path], list[Path], list[Path]]:
    """Returns the sorted folders, tars and other files directly in a folder, except hidden entries."""
    folders, tars, loose = [], [], []
    for entry in sorted(entry for entry in path.iterdir() if not is_hidden(entry.name)):
        (folders if entry.is_dir() else tars if is_tar(entry.name) else loose).append(entry)
    return folders, tars, loose


def refuse_archives(loose: Sequence[Path]) -> None:
    """Raises `UserError` if an archive of an unsupported type is among the files."""
    for entry in loose:
        if entry.name.lower().endswith(_ARCHIVES):
            opener_of(entry)  # raises with the type of the archive


def refuse_twice(entries: Sequence[Path]) -> None:
    """Raises `UserError` if a folder and its tar are both present, or two tars of the same folder."""
    seen: dict[Path, Path] = {}
    for entry in entries:
        stem = entry.parent / (entry.name if entry.is_dir() else tar_stem(entry.name))
        if stem in seen:
            raise UserError(f"{entry.parent} holds {seen[stem].name} and {entry.name}, the same data: move one away")
        seen[stem] = entry


def _refuse_same_folder(folders: Sequence[Path]) -> None:
    """Raises `UserError` if a class is a link to another class: its images would have two classes."""
    links = [folder for folder in folders if folder.is_symlink()]
    places = {folder.resolve(): folder for folder in folders if folder not in links} if links else {}
    for link in links:
        other = places.setdefault(link.resolve(), link)
        if other != link:
            raise UserError(f"{link} is a link to {other}, so its images have two classes: remove the link")


def _loose(path: Path, loose: Sequence[Path], split: str | None) -> list[Container]:
    """Returns a container with the files that are in no class or split folder; they are only counted."""
    parquet = [entry.name for entry in loose if is_parquet(entry)]
    if parquet:
        raise UserError(f"{path} holds Parquet files, such as {parquet[0]}: prepare them with the kind parquet")
    return [Container(str(path), split=split or "train", direct=True)] if loose else []


def _below_single_folders(path: Path) -> Path:
    """Returns the folder that holds splits or classes; descends through folders that hold only one folder."""
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


def _shared_below(split: Path) -> Path:
    """Returns the folder of the classes of a split: the split, or a folder such as images in train/images/CLASS.

    Raises:
      UserError: the only folder of the split may be a class or hold the classes.
    """
    folders, tars, _ = entries_of(split)
    if len(folders) != 1 or tars or is_synset(folders[0].name):
        return split
    below, packed, _ = entries_of(folders[0])
    if holds_images_only(folders[0].name) or split_named(folders[0].name):
        return folders[0] if below or packed else split
    if len(below) < 2 or _has_images(split) or _has_images(folders[0]):
        return split
    raise UserError(unclear_class(str(split), folders[0].name, [folder.name for folder in below]))


def _refuse_splits_below(path: Path, folders: Sequence[Path]) -> None:
    """Raises `UserError` if every folder holds splits and no images: the layout CLASS/SPLIT, or several data sets."""
    found = None
    for folder in folders:
        with os.scandir(folder) as entries:
            found = next((entry.name for entry in entries if split_named(entry.name) and entry.is_dir()), None)
        if found is None or _has_images(folder):
            return
    if found:
        raise UserError(split_below(str(path), folders[0].name, found))


def _refuse_sets_below(path: Path, folders: Sequence[Path]) -> None:
    """Raises `UserError` if class folders hold folders of synsets or of the other classes, and no images."""
    names = {folder.name for folder in folders}
    for folder in folders:
        if is_synset(folder.name) or _has_images(folder):
            continue
        below = [entry.name for entry in entries_of(folder)[0]]
        if copied_classes(names, below):
            raise UserError(copy_of_classes(str(path), folder.name, below))
        synsets = [name for name in below if is_synset(name)]
        if len(synsets) > 1 and len(synsets) == len(below):
            raise UserError(
                f"{path}: {folder.name} holds class folders, such as {abbreviated(synsets, 2)}, so it is not a class: "
                f"give --source {folder}, or name it after a split, train or val"
            )


def _class_tars(path: Path, tars: Sequence[Path], split: str | None) -> list[Container]:
    """Returns the tars of a folder: one per class, or parts of splits if all tars are named after splits."""
    parts = bool(tars) and not split and all(splits_in(tar_stem(entry.name)) for entry in tars)
    found = []
    for number, entry in enumerate(tars):
        container = tar(entry, split=split or "train", class_name=tar_stem(entry.name))
        inspected = parts or number < _LOOKED_INTO or not is_synset(tar_stem(entry.name))
        inside = inspect_tar(container) if inspected else None
        if inside and inside.tars and not inside.images:
            raise UserError(f"{entry} holds further tars, such as {inside.tars[0]}: give it alone, or unpack it")
        if inside and (inside.has_labels or (inside.is_shard and tar_stem(entry.name)[-3:].isdigit())):
            raise UserError(
                f"{entry} is a WebDataset shard, with {abbreviated(sorted(inside.labels))} for each image, not a tar "
                "of a class: prepare it with the kind webdataset"
            )
        if parts:
            found += _part(entry, inside)
            continue
        _refuse_splits_in(entry, inside)
        folders = _folders_in(entry, inside)
        if len(folders) > 1 and not any("/" not in name for name in inside.images):
            raise UserError(
                f"{entry} holds several folders, such as {abbreviated(sorted(folders))}; expected one class: if they "
                f"are classes, give the tars themselves: --source {path}/*.tar"
            )
        found.append(container)
    return found


def _refuse_splits_in(entry: Path, inside: TarContents | None) -> None:
    """Raises `UserError` if all images in the tar of a class are in folders of splits."""
    found = (
        [next(filter(split_named, PurePosixPath(name).parts[:-1]), None) for name in inside.images] if inside else []
    )
    if found and all(found):
        raise UserError(split_below(str(entry.parent), entry.name, found[0]))


def _folders_in(entry: Path, inside: TarContents | None) -> frozenset[str]:
    """Returns the folders in the tar of a class, also below a shared folder that is not named after the class."""
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
            f"{entry} is named after the split {' and '.join(sorted(named))}, but its images are not in class folders, "
            f"such as {abbreviated(inside.images, 1) or 'none'}: it is not a class; try the kind {kind}"
        )
    return [tar(entry, split=named.pop())]


def tar_at(path: Path, split: str | None = None, *, imagenet: bool = False) -> list[Container]:
    """Returns the tars inside a tar, one per class, or the tar itself if it holds images.

    Raises:
      UserError: the tar is damaged, unsafe or of a different kind, or holds both images and tars.
    """
    if is_parquet(path):
        raise UserError(f"{path} is a Parquet file: prepare it with the kind parquet")
    whole = tar(path, split=split, imagenet=imagenet)
    inside = inspect_tar(whole)
    if inside.tars and not any("/" in name for name in inside.images):
        if whole.packed:
            raise UserError(f"{path} is compressed and holds tars, which can only be read in place: gunzip it first")
        return inner_tars(whole)
    if inside.is_shard and not imagenet:
        raise UserError(
            f"{path} is a WebDataset shard, with {abbreviated(sorted(inside.labels))} for each image: prepare it with "
            "the kind webdataset"
        )
    return [whole]


def inner_tars(whole: Container) -> list[Container]:
    """Returns the containers inside a tar of tars: one tar per class, or one per split."""
    inner, images, others, split = [], "", 0, whole.split
    for member, _ in tar_members(whole):
        if is_hidden(member.name):
            continue
        if not is_tar(member.name):
            images = images or (member.name if has_image_suffix(member.name) else "")
            others += 1
            continue
        if not member.name.lower().endswith(".tar"):
            raise UserError(f"{whole.title} holds the compressed tar {member.name}: unpack it first")
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
            "it, or give them separately"
        )
    loose = [replace(whole, split=split or "train", direct=True)] if others else []  # to be counted
    splits = [] if split else [place for place in inner if split_word(place.class_name)]
    if splits and len(splits) < len(inner):
        other = next(place for place in inner if place not in splits)
        raise UserError(mixed_splits(whole.title, f"{splits[0].class_name}.tar", f"{other.class_name}.tar"))
    if splits:
        return [found for place in splits for found in _of_split(place)] + loose
    return sorted(inner, key=lambda container: container.class_name or "") + loose


def _of_split(place: Container) -> list[Container]:
    """Returns the containers in a split's tar inside a tar, which holds class folders or one tar per class."""
    whole = replace(place, split=split_word(place.class_name), class_name=None)
    inside = inspect_tar(whole)
    if inside.is_shard and not place.imagenet:
        raise UserError(
            f"{whole.title} is a WebDataset shard: unpack the tar that holds it, and use the kind webdataset"
        )
    return inner_tars(whole) if inside.tars else [whole]
