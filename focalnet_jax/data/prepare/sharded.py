"""Finds the WebDataset shards or Parquet files of a data set."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from focalnet_jax.data.class_lists import NUM_1K, class_list, class_names
from focalnet_jax.data.listing import is_folder, walk
from focalnet_jax.data.prepare.cards import CARD_FILES
from focalnet_jax.data.prepare.containers import Container, first_bytes, parquet, tar
from focalnet_jax.data.prepare.folders import refuse_twice
from focalnet_jax.data.prepare.inspection import inspect_tar
from focalnet_jax.data.prepare.labels import Labels, followed, is_imagenet_order
from focalnet_jax.data.prepare.locations import Location, class_names_on_cards, missing_shards
from focalnet_jax.data.prepare.naming import (
    is_hidden,
    is_tar,
    missing_parts,
    splits_in,
    tar_stem,
)
from focalnet_jax.data.prepare.rows import class_names_in, has_unnamed_numbers, is_parquet, label_column
from focalnet_jax.data.prepare.samples import LABEL_COLUMNS
from focalnet_jax.data.split_names import split_named
from focalnet_jax.errors import UserError, abbreviated

_IMAGENET1K = re.compile(r"imagenet[-_]?(1k|2012)(?![0-9a-z])", re.IGNORECASE)


def find_samples(
    locations: Sequence[Location], classes: tuple[str, ...] | None
) -> tuple[list[Container], tuple[str, ...] | None, list[str]]:
    """Returns the shards at `locations`, the class names or None if they are unknown, and notes for the user.

    If `classes` is None, the class names are ImageNet-1K's synsets if all shards are named after it, else those on the
    card of the data set.

    Raises:
      UserError: there are no shards, the first ones contain no labels, or only some file names contain a split.
    """
    files, notes = _files(locations, lambda path: is_tar(path.name), "WebDataset shards")
    containers, labelled = [], 0
    for number, (path, split) in enumerate(files):
        container = tar(path, split=split, holds="samples")
        if number < 16:
            inside = inspect_tar(container)
            if inside.tars and not inside.images:
                raise UserError(
                    f"{path} contains tars, such as {inside.tars[0]}: unpack it, or use the kind imagefolder"
                )
            labelled += bool(inside.labels)
        containers.append(container)
    if not labelled:
        raise UserError(
            f"{files[0][0]} contains no .cls, .json or .txt for its images, so it is not a WebDataset shard: use the "
            "kind imagefolder for one tar per class, or imagenet1k for ImageNet"
        )
    if classes is None and all(_IMAGENET1K.search(path.name) for path, _ in files):
        classes = tuple(synset for synset, _ in class_list(NUM_1K))
        notes.append("the shards are named after ImageNet-1K: numeric labels are read as its class indices, 0 to 999")
    if classes is None:
        classes, notes = _on_cards(locations, LABEL_COLUMNS, notes)
    imagenet = classes == tuple(synset for synset, _ in class_list(NUM_1K))
    return [replace(container, imagenet=imagenet) for container in containers], classes, notes


def _on_cards(
    locations: Sequence[Location], columns: Sequence[str], notes: list[str]
) -> tuple[tuple[str, ...] | None, list[str]]:
    """Returns the class names on the card of a data set, or None if there are none, and notes for the user."""
    names, file = class_names_on_cards(locations, columns)
    if names is None:
        return None, notes
    if is_imagenet_order(names):  # these names are unique, unlike names such as crane
        names = class_names(NUM_1K)
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        todo = "give --classes FILE"
        return None, [*notes, f"{file} is not used: several classes have the name {abbreviated(repeated)}; {todo}"]
    return names, [*notes, f"classes: the {len(names)} names in {file}"]


def names_of_numbers(
    locations: Sequence[Location], containers: Sequence[Container], labels: Labels
) -> tuple[tuple[str, ...] | None, list[str]]:
    """Returns the class of each numeric label in files without class names, or None if unknown, and notes for the user.

    If the card of the data set lists the names of --classes in another order, the order of the card is used.

    Args:
      locations: files and folders of the sources.
      containers: WebDataset shards or Parquet files at these locations.
      labels: interpretation of the labels.

    Raises:
      UserError: the card has other class names than --classes.
    """
    classes = labels.names
    if not labels.ordered or not classes:
        return classes, []
    columns: Sequence[str] = LABEL_COLUMNS
    if containers[0].holds == "rows":
        if not has_unnamed_numbers(containers[0], labels):
            return classes, []
        columns = [label_column(containers[0], labels)]
    stated, file = class_names_on_cards(locations, columns)
    if stated is None:
        return classes, []
    names = followed(stated, classes)
    if names is None:
        raise UserError(
            f"the class names in {file} of the data set are not those of --classes FILE; give --classes with the "
            f"names in {file}, or omit --classes to keep its names and order; if {file} is wrong, correct it in a copy"
        )
    if names == classes[: len(names)]:
        return classes, []
    return names, [
        f"{file} lists the class names in another order than --classes: numeric labels are read with the order of "
        f"{file}, and the prepared data set has the order of --classes"
    ]


def find_rows(
    locations: Sequence[Location], labels: Labels
) -> tuple[list[Container], tuple[str, ...] | None, list[str]]:
    """Returns the Parquet files at `locations`, the class names or None if they are unknown, and notes for the user.

    Raises:
      UserError: there are no Parquet files, their class names differ or are repeated, or only some file names contain a
        split.
    """
    files, notes = _files(locations, is_parquet, "Parquet files")
    containers = [parquet(path, split=split) for path, split in files]
    by_file = {container.path: class_names_in(container, labels) for container in containers}
    if labels.names:
        _refuse_unnamed(containers, by_file, labels)
        return containers, labels.names, notes + followed_notes(containers, labels)
    stated = {names: path for path, names in by_file.items()}
    longest = max(stated, key=lambda names: len(names or ()))
    if len(stated) > 1 and longest and all(names and set(names) < set(longest) for names in stated.keys() - {longest}):
        notes.append(
            "some files contain only some of the class names: numeric labels are read with the names in their file"
        )
        stated = {longest: stated[longest]}
    if len(stated) > 1 and None in stated:
        raise UserError(
            f"{stated[longest]} contains class names, but {stated[None]} does not: if its labels are numbers in the "
            "same order, give --classes FILE with the same names in this order"
        )
    if len(stated) > 1:
        raise UserError(f"{' and '.join(list(stated.values())[:2])} contain different class names: give --classes FILE")
    names = next(iter(stated))
    if names is None and containers and has_unnamed_numbers(containers[0], labels):
        names, notes = _on_cards(locations, [label_column(containers[0], labels)], notes)
    if names and len(set(names)) < len(names):
        first = () if is_imagenet_order(names) else names[:1]  # the first class may be for the background
        if not is_imagenet_order(names[len(first) :]):
            repeated = [name for name, count in Counter(names).items() if count > 1]
            raise UserError(
                f"{files[0][0]}: several classes have the name {abbreviated(repeated)}; give --classes FILE"
            )
        names = (*first, *class_names(NUM_1K))  # unique, unlike names such as crane
    return containers, names, notes


def _refuse_unnamed(
    containers: Sequence[Container], stated: Mapping[str, tuple[str, ...] | None], labels: Labels
) -> None:
    """Raises `UserError` if one file has class names in another order than --classes, and another only has numbers.

    Args:
      containers: the Parquet files.
      stated: class names by file, or None for a file without class names.
      labels: interpretation of the labels with the names of --classes.
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
                f"{path} contains class names in another order than --classes, and {unnamed} contains none, so its "
                f"numbers may have either order: give --classes FILE in the order of {path}"
            )


def followed_notes(containers: Sequence[Container], labels: Labels) -> list[str]:
    """Returns a note if a Parquet file contains the names of --classes in another order, else an empty list."""
    for container in containers:
        stated = class_names_in(container, labels) if container.holds == "rows" else None
        names = followed(stated, labels.names) if stated else None
        if names and names != labels.names[: len(names)]:
            return [
                f"{container.path} contains class names in another order than --classes: its numeric labels are read "
                "with its own names, and the prepared data set has the order of --classes"
            ]
    return []


def _files(
    locations: Sequence[Location], wanted: Callable[[Path], bool], many: str
) -> tuple[list[tuple[Path, str]], list[str]]:
    """Returns the files of a kind at `locations`, each with its split, and notes for the user.

    Args:
      locations: files and folders of the sources.
      wanted: function that returns whether a file is of the kind.
      many: plural name of the files in messages.
    """
    found, others = [], Counter()
    for location in locations:
        path = location.path
        if location.splits is not None:
            stated = sorted(location.splits.items())
            found += [(entry, split or _split_of(entry, path)) for entry, split in stated if wanted(entry)]
            continue
        if path.is_file():
            if not wanted(path):
                raise UserError(f"--source {path}: expected {many}, or a folder with them")
            found.append((path, _split_of(path, path.parent)))
            continue
        for entry in sorted(_files_below(path, others)):
            if is_hidden(str(entry.relative_to(path))):
                others["hidden"] += 1
            elif entry.name in CARD_FILES and not wanted(entry):
                continue
            elif wanted(entry):
                first_bytes(entry)  # raises `UserError` for a broken link
                found.append((entry, _split_of(entry, path)))
            else:
                others[entry.suffix or "no suffix"] += 1
    refuse_twice([path for path, _ in found if is_tar(path.name)])
    held = ", ".join(f"{count} {kind}" for kind, count in (+others).most_common(5))
    if not found:
        raise UserError(
            f"--source {abbreviated([str(location.path) for location in locations])}: expected {many}, found "
            f"{held or 'nothing'}"
        )
    by_split = defaultdict(list)
    for path, split in found:
        by_split[split].append(path)
    if None in by_split and len(by_split) > 1:
        named = next(path for path, split in found if split)
        raise UserError(
            f"{by_split[None][0]} has no split in its name, but {named.name} has one: rename it, or give it alone"
        )
    notes = [f"left out because they are not {many}: {held}"] if held else []
    missing = [note for location in locations for note in missing_shards(location, [path for path, _ in found])]
    notes += missing or missing_parts([path for path, _ in found])
    if None in by_split:
        notes.append(
            "no file or folder name contains a split: all images are train, unless a Parquet column such as split "
            "contains the split of each image; --held-out FRACTION creates a split val"
        )
    return [(path, split or "train") for path, split in found], notes


def _files_below(folder: Path, others: Counter[str]) -> Iterator[Path]:
    """Yields the files in a folder tree, and counts in `others` the links to folders that were already read."""
    for parent, entries in walk(folder):
        others["links to folders read already"] += entries is None
        yield from (Path(parent, entry.name) for entry in entries or () if not is_folder(entry))


def _split_of(path: Path, root: Path) -> str | None:
    """Returns the split in the name of a file, else of the nearest folder that names a split, or None if none does."""
    stem = tar_stem(path.name) if is_tar(path.name) else path.stem
    named = splits_in(stem)
    if len(named) > 1:
        raise UserError(f"{path} has {' and '.join(sorted(named))} in its name; expected one split: rename it")
    folders = [root.name, *path.relative_to(root).parts[:-1]]
    return next(iter(named), None) or next(filter(None, map(split_named, reversed(folders))), None)
