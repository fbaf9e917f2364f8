"""Finds the containers in a folder or tar that contains classes, splits with classes, or one tar per class."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from focalnet_jax.data.prepare.class_tars import class_tars, tar_at
from focalnet_jax.data.prepare.containers import Container, opener_of, tar
from focalnet_jax.data.prepare.inspection import inspect_tar
from focalnet_jax.data.prepare.layouts import (
    copied_classes,
    copy_of_classes,
    mixed_splits,
    no_class_folders,
    split_below,
    unclear_class,
)
from focalnet_jax.data.prepare.naming import (
    has_image_suffix,
    holds_images_only,
    is_hidden,
    is_synset,
    is_tar,
    splits_in,
    tar_stem,
)
from focalnet_jax.data.prepare.rows import is_parquet
from focalnet_jax.data.split_names import split_named, split_word
from focalnet_jax.errors import UserError, abbreviated

_ARCHIVES = (".zip", ".rar", ".7z", ".zst")


def containers_of(path: Path) -> list[Container]:
    """Returns the containers of a source.

    If the source contains no splits, its name may be the name of its split, such as val or val.tar.

    Raises:
      UserError: like `containers_at`.
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

    Args:
      path: tar or folder.
      split: split of all images, or None if the path of each image determines it.

    Raises:
      UserError: images are not in class folders, splits and classes are mixed, or the source is of a different kind.
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
            root = _shared_below(entry) if entry in folders else entry
            found += containers_at(root, named[entry])
            if root != entry:  # only to count the files next to it
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
            return tar_at(tars[0]) + _loose(path, loose, None)  # the tar contains the classes or splits
    classes = [Container(str(entry), split=split or "train", class_name=entry.name) for entry in folders]
    return sorted(
        classes + class_tars(path, tars, split), key=lambda container: container.class_name or container.path
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
            opener_of(entry)  # raises `UserError` with the type of the archive


def refuse_twice(entries: Sequence[Path]) -> None:
    """Raises `UserError` if a folder and a tar, or two tars, have the same name without suffix."""
    seen: dict[Path, Path] = {}
    for entry in entries:
        stem = entry.parent / (entry.name if entry.is_dir() else tar_stem(entry.name))
        if stem in seen:
            raise UserError(
                f"{entry.parent} contains {seen[stem].name} and {entry.name}, the same data twice: move one away"
            )
        seen[stem] = entry


def _refuse_same_folder(folders: Sequence[Path]) -> None:
    """Raises `UserError` if two class folders are the same folder, because its images would then have two classes."""
    links = [folder for folder in folders if folder.is_symlink()]
    targets = {folder.resolve(): folder for folder in folders if folder not in links} if links else {}
    for link in links:
        other = targets.setdefault(link.resolve(), link)
        if other != link:
            raise UserError(f"{link} is a link to {other}, so its images have two classes: remove the link")


def _loose(path: Path, loose: Sequence[Path], split: str | None) -> list[Container]:
    """Returns a container of the files `loose` in `path`, which are only counted, or an empty list if there are none.

    Raises:
      UserError: there are Parquet files.
    """
    parquet = [entry.name for entry in loose if is_parquet(entry)]
    if parquet:
        raise UserError(f"{path} contains Parquet files, such as {parquet[0]}: prepare them with the kind parquet")
    return [Container(str(path), split=split or "train", direct=True)] if loose else []


def _below_single_folders(path: Path) -> Path:
    """Returns the folder that contains the splits or classes.

    This is `path`, or a folder below it that is reached through folders with a single folder and no tars or images.
    """
    below = path
    while True:
        folders, tars, _ = entries_of(below)
        if len(folders) != 1 or tars or split_named(folders[0].name) or _has_images(below):
            break
        below = folders[0]
    if below != path and _has_images(below):
        return below.parent  # `below` is a class
    return below if folders or tars else path


def _has_images(folder: Path) -> bool:
    with os.scandir(folder) as entries:
        return any(has_image_suffix(entry.name) and not is_hidden(entry.name) for entry in entries)


def _shared_below(split: Path) -> Path:
    """Returns the folder that contains the classes of a split: the split, or a folder such as train/images.

    Raises:
      UserError: the only folder of the split may be a class, or may contain the classes.
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
    """Raises `UserError` if every folder contains splits and no images.

    The layout is then CLASS/SPLIT, or the folders are several data sets.
    """
    found = None
    for folder in folders:
        with os.scandir(folder) as entries:
            found = next((entry.name for entry in entries if split_named(entry.name) and entry.is_dir()), None)
        if found is None or _has_images(folder):
            return
    if found:
        raise UserError(split_below(str(path), folders[0].name, found))


def _refuse_sets_below(path: Path, folders: Sequence[Path]) -> None:
    """Raises `UserError` if a class folder contains no images, but folders named after synsets or other classes."""
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
                f"{folder} contains class folders, such as {abbreviated(synsets, 2)}, so it is not a class: give "
                f"--source {folder}, or rename it to train or val if it is a split"
            )
