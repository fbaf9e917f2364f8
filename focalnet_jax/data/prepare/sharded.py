"""Finds data sets in many files of labelled images: WebDataset shards and Parquet files."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from focalnet_jax.data.class_lists import NUM_1K, class_list, class_names
from focalnet_jax.data.listing import is_folder, walk
from focalnet_jax.data.prepare.containers import Container, first_bytes, parquet, tar
from focalnet_jax.data.prepare.folders import refuse_twice
from focalnet_jax.data.prepare.inspection import inspect_tar
from focalnet_jax.data.prepare.labels import Labels, followed, is_imagenet_order
from focalnet_jax.data.prepare.naming import (
    is_hidden,
    is_tar,
    missing_parts,
    splits_in,
    tar_stem,
)
from focalnet_jax.data.prepare.rows import class_names_in, has_unnamed_numbers, is_parquet
from focalnet_jax.data.split_names import split_named
from focalnet_jax.errors import UserError, abbreviated

_IMAGENET1K = re.compile(r"imagenet[-_]?(1k|2012)(?![0-9a-z])", re.IGNORECASE)


def find_samples(
    paths: Sequence[Path], classes: tuple[str, ...] | None
) -> tuple[list[Container], tuple[str, ...] | None, list[str]]:
    """Returns the shards at `paths`, the class names or None, and notes for the user.

    Shards named after ImageNet-1K have its classes; numeric labels are their indices.

    Raises:
      UserError: there are no shards, or only some of the names have a split.
    """
    files, notes = _files(paths, lambda path: is_tar(path.name), "tar", "shards of WebDataset")
    containers, labelled = [], 0
    for number, (path, split) in enumerate(files):
        container = tar(path, split=split, holds="samples")
        if number < 16:
            inside = inspect_tar(container)
            if inside.tars and not inside.images:
                raise UserError(f"{path} holds tars, such as {inside.tars[0]}: unpack it, or use the kind imagefolder")
            labelled += bool(inside.labels)
        containers.append(container)
    if not labelled:
        raise UserError(
            f"{files[0][0]} holds no .cls, .json or .txt for its images: it is not a WebDataset shard; for one tar per "
            "class use the kind imagefolder, for ImageNet imagenet1k"
        )
    if classes is None and all(_IMAGENET1K.search(path.name) for path, _ in files):
        classes = tuple(synset for synset, _ in class_list(NUM_1K))
        notes.append("the shards are named after ImageNet-1K: numeric labels are its class indices, 0 to 999")
    imagenet = classes == tuple(synset for synset, _ in class_list(NUM_1K))
    return [replace(container, imagenet=imagenet) for container in containers], classes, notes


def find_rows(paths: Sequence[Path], labels: Labels) -> tuple[list[Container], tuple[str, ...] | None, list[str]]:
    """Returns the Parquet files at `paths`, the class names or None, and notes for the user.

    Raises:
      UserError: there are no Parquet files, the files state different classes, or only some of the names have a split.
    """
    files, notes = _files(paths, is_parquet, "Parquet file", "Parquet files")
    containers = [parquet(path, split=split) for path, split in files]
    by_file = {container.path: class_names_in(container, labels) for container in containers}
    if labels.names:
        _refuse_unnamed(containers, by_file, labels)
        return containers, labels.names, notes + followed_notes(containers, labels)
    stated = {names: path for path, names in by_file.items()}
    longest = max(stated, key=lambda names: len(names or ()))
    if len(stated) > 1 and longest and all(names and set(names) < set(longest) for names in stated.keys() - {longest}):
        notes.append("some files state only some of the class names: numbers are read by the names of their file")
        stated = {longest: stated[longest]}
    if len(stated) > 1 and None in stated:
        raise UserError(
            f"{stated[longest]} states class names, but {stated[None]} does not: if its labels are numbers in the same "
            "order, give --classes FILE with these names in this order"
        )
    if len(stated) > 1:
        raise UserError(f"{' and '.join(list(stated.values())[:2])} state different classes: give --classes FILE")
    names = next(iter(stated))
    if names and len(set(names)) < len(names):
        first = () if is_imagenet_order(names) else names[:1]  # some begin with a class for the background
        if not is_imagenet_order(names[len(first) :]):
            repeated = [name for name, count in Counter(names).items() if count > 1]
            raise UserError(
                f"{files[0][0]}: several classes have the name {abbreviated(repeated)}: give --classes FILE"
            )
        names = (*first, *class_names(NUM_1K))  # unique: repeated names, such as crane, get their synsets
    return containers, names, notes


def _refuse_unnamed(
    containers: Sequence[Container], stated: Mapping[str, tuple[str, ...] | None], labels: Labels
) -> None:
    """Raises `UserError` if some files state classes in another order than --classes, and others hold numbers only.

    Args:
      containers: the files.
      stated: class names by file.
      labels: labels with the names of --classes.
    """
    differing = [
        path
        for path, names in stated.items()
        if names and (found := followed(names, labels.names)) and found != labels.names[: len(found)]
    ]
    for container in containers if differing else ():
        if not stated[container.path] and has_unnamed_numbers(container, labels):
            path, unnamed = differing[0], container.path
            raise UserError(
                f"{path} states its class names in another order than --classes, and {unnamed} states none, so its "
                f"numbers may follow either order: give --classes FILE in the order of {path}"
            )


def followed_notes(containers: Sequence[Container], labels: Labels) -> list[str]:
    """Returns a line if Parquet files state the classes of --classes in another order, which is then followed."""
    for container in containers:
        stated = class_names_in(container, labels) if container.holds == "rows" else None
        names = followed(stated, labels.names) if stated else None
        if names and names != labels.names[: len(names)]:
            return [
                f"{container.path} states the names of its classes in another order than --classes: its numbers are "
                "read by its names, and --classes gives the order of the classes"
            ]
    return []


def _files(
    paths: Sequence[Path], wanted: Callable[[Path], bool], one: str, many: str
) -> tuple[list[tuple[Path, str]], list[str]]:
    """Returns the files of a kind at and below `paths`, each file with its split, and notes for the user."""
    found, others = [], Counter()
    for path in paths:
        if path.is_file():
            if not wanted(path):
                raise UserError(f"--source {path}: expected {many}, or a folder of them")
            found.append((path, _split_of(path, path.parent)))
            continue
        for entry in sorted(_files_below(path, others)):
            if is_hidden(str(entry.relative_to(path))):
                others["hidden"] += 1
            elif wanted(entry):
                first_bytes(entry)  # raises for a link to nothing
                found.append((entry, _split_of(entry, path)))
            else:
                others[entry.suffix or "no suffix"] += 1
    refuse_twice([path for path, _ in found if is_tar(path.name)])
    held = ", ".join(f"{count} {kind}" for kind, count in (+others).most_common(5))
    if not found:
        raise UserError(
            f"--source {abbreviated([str(path) for path in paths])}: expected {many}, found {held or 'nothing'}"
        )
    by_split = defaultdict(list)
    for path, split in found:
        by_split[split].append(path)
    if None in by_split and len(by_split) > 1:
        named = next(path for path, split in found if split)
        raise UserError(
            f"{by_split[None][0]} has no split in its name, but {named.name} has: rename it, or give it alone"
        )
    notes = [f"left out, not {many}: {held}"] if held else []
    notes += missing_parts([path for path, _ in found])
    if None in by_split:
        notes.append(
            "no file or folder name has a split: all images are train, unless a column of Parquet such as split says "
            "otherwise; --held-out FRACTION creates a split val"
        )
    return [(path, split or "train") for path, split in found], notes


def _files_below(folder: Path, others: Counter[str]) -> Iterator[Path]:
    """Yields the files in a folder tree; counts in `others` the links to folders that were read already."""
    for parent, entries in walk(folder):
        others["links to folders read already"] += entries is None
        yield from (Path(parent, entry.name) for entry in entries or () if not is_folder(entry))


def _split_of(path: Path, root: Path) -> str | None:
    """Returns the split in the name of a file, else in the name of the nearest folder; None if there is none."""
    stem = tar_stem(path.name) if is_tar(path.name) else path.stem
    named = splits_in(stem)
    if len(named) > 1:
        raise UserError(f"{path}: its name has {' and '.join(sorted(named))}; expected one split: rename it")
    folders = [root.name, *path.relative_to(root).parts[:-1]]
    return next(iter(named), None) or next(filter(None, map(split_named, reversed(folders))), None)
