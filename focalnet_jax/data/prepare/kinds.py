"""Finds the containers of images at the given paths, for each kind of source."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from focalnet_jax.data.class_files import read_classes
from focalnet_jax.data.class_lists import NUM_1K, NUM_22K, class_list
from focalnet_jax.data.prepare.containers import Container
from focalnet_jax.data.prepare.folders import containers_of
from focalnet_jax.data.prepare.imagenet1k import IMAGENET_ORDER, find_imagenet1k
from focalnet_jax.data.prepare.labels import Labels
from focalnet_jax.data.prepare.locations import locate
from focalnet_jax.data.prepare.sharded import find_rows, find_samples, followed_notes, names_of_numbers
from focalnet_jax.data.prepare.val_labels import ValLabels
from focalnet_jax.errors import UserError, abbreviated


@dataclass(frozen=True)
class SourceKind:
    """Properties of a kind of source."""

    name: str  # default name of the data set
    num_classes: int | None = None  # number of classes in the ImageNet list; None if the sources define the classes
    held_out: float = 0.0  # default fraction of training images to hold out if the sources have no split val


KINDS = {
    "imagefolder": SourceKind("images"),
    "imagenet1k": SourceKind("imagenet2012", NUM_1K),
    "imagenet22k": SourceKind("imagenet22k", NUM_22K, 0.01),
    "parquet": SourceKind("images"),
    "webdataset": SourceKind("images"),
}


@dataclass(frozen=True)
class Sources:
    """Containers of images, and how to find the classes of the images."""

    containers: tuple[Container, ...]
    classes: tuple[str, ...] | None = None  # class names in order; None for the sorted names that are found
    labels: Labels = field(default_factory=Labels)  # interpretation of the labels
    val_labels: ValLabels | None = None  # label list of ImageNet-1K's validation images; None if there is none
    notes: tuple[str, ...] = ()  # lines to print, such as the files that are not read


def find_sources(
    kind: str,
    paths: Sequence[Path],
    *,
    classes: Path | None = None,
    val_labels: Path | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    held_out: float | None = None,
) -> Sources:
    """Returns the containers at `paths`, and how to find the classes of their images.

    Args:
      kind: key of `KINDS`.
      paths: files and folders of the sources, patterns, or addresses hf://datasets/...; see `locations.locate`.
      classes: file with class names, or None; see `--classes`.
      val_labels: label list of ImageNet-1K's validation images, or None to search for it.
      image_column: Parquet column of images, or None to find it by type and name.
      label_column: Parquet column of labels, or None to find it by type and name.
      held_out: value of `--held-out`; if it is above 0, ImageNet-1K may lack the split val.

    Raises:
      UserError: a path is missing or contains nothing of the kind, or a list is invalid.
      RunFailedError: a download failed.
    """
    columns = Labels(image_column=image_column, label_column=label_column)
    locations = [location for path in paths for location in locate(kind, path, columns)]
    paths = [location.path for location in locations]
    check_paths(paths)
    _refuse_repeated(kind, paths)
    located = [note for location in locations for note in location.notes]
    given = _read_classes(classes) if classes else None
    ordered = given is not None
    names = given
    if KINDS[kind].num_classes:
        names = tuple(synset for synset, _ in class_list(KINDS[kind].num_classes))
    if kind == "imagenet1k":
        found, listed, notes = find_imagenet1k(paths, val_labels, (image_column, label_column), held_out=bool(held_out))
        if ordered:
            notes = [note.replace(IMAGENET_ORDER, f"in the order of {classes}") for note in notes]
        labels = Labels(given or names, listed and listed.synsets, image_column, label_column, ordered)
        notes += followed_notes(found, labels) if ordered else []
        return Sources(tuple(found), names, labels, listed, (*located, *notes))
    if kind in ("webdataset", "parquet"):
        _refuse_other_order(classes, given or ())
    if kind == "webdataset":
        found, names, notes = find_samples(locations, names)
        labels = Labels(names, ordered=ordered)
    if kind == "parquet":
        labels = Labels(names, image_column=image_column, label_column=label_column, ordered=ordered)
        found, names, notes = find_rows(locations, labels)
        labels = replace(labels, names=names)
    if kind in ("webdataset", "parquet"):
        numbered, order = names_of_numbers(locations, found, labels)
        labels = replace(labels, names=numbered)
        return Sources(tuple(found), names, labels, notes=(*located, *notes, *order))
    found = tuple(container for path in paths for container in containers_of(path))
    if not found:
        raise UserError(
            f"--source {' '.join(map(str, paths))}: expected CLASS/*.jpg, SPLIT/CLASS/*.jpg or CLASS.tar, found none; "
            "check the path and the kind"
        )
    return Sources(found, names)


def check_paths(paths: Sequence[Path]) -> None:
    """Raises `UserError` if a source is missing, or is neither a file nor a folder, such as a pipe."""
    for path in paths:
        if not path.exists():
            raise UserError(f"--source {path}: there is no such file or folder")
        if not (path.is_file() or path.is_dir()):
            raise UserError(f"--source {path} is neither a file nor a folder")


def _refuse_repeated(kind: str, paths: Sequence[Path]) -> None:
    """Raises `UserError` if a source is given twice or is inside another source.

    For the kind imagenet1k, a source may be inside another one, because parts of ImageNet-1K may be given separately.
    """
    resolved = [path.resolve() for path in paths]
    for number, path in enumerate(resolved):
        for other in resolved[:number]:
            if path == other or (kind != "imagenet1k" and (path in other.parents or other in path.parents)):
                raise UserError(
                    f"--source {other} {path}: some images are in both sources and would occur twice; give only one of "
                    "the two"
                )


def _refuse_other_order(path: Path | None, names: Sequence[str]) -> None:
    """Raises `UserError` if the class names are the numbers from 0 in another order.

    A numeric label would then be ambiguous: a class name, or the index of a class in the list.
    """
    numbers = [str(number) for number in range(len(names))]
    if list(names) != numbers and set(names) == set(numbers):
        raise UserError(
            f"{path} lists the numbers 0 to {numbers[-1]} in another order, so the label {names[0]} may mean the class "
            f"of this name or the class in line {int(names[0]) + 1}: give other names, or list the numbers in order"
        )


def _read_classes(path: Path) -> tuple[str, ...]:
    if str(path) == "imagenet1k" and not path.exists():
        return tuple(synset for synset, _ in class_list(NUM_1K))
    names = read_classes(path)
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise UserError(f"{path}: expected each class once; {abbreviated(repeated)} is repeated")
    return names
