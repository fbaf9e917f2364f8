"""The kinds of sources: where each keeps its images and what its classes are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from focalnet_jax.data.class_lists import NUM_1K, NUM_22K, class_list
from focalnet_jax.data.prepare.containers import Container, inner_tars, split_named, tar
from focalnet_jax.errors import UserError


@dataclass(frozen=True)
class Kind:
    """What is fixed for a kind of source."""

    name: str  # of the data set
    num_classes: int | None = None  # of the class list; None: the folders are the classes
    held_out: float = 0.0  # where the sources have no images of the split val


KINDS = {
    "imagefolder": Kind("images"),
    "imagenet1k": Kind("imagenet2012", NUM_1K),
    "imagenet22k": Kind("imagenet22k", NUM_22K, 0.01),
}
_TRAIN_TAR, _VAL_TAR = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"


@dataclass(frozen=True)
class Sources:
    """Where the images lie, and their classes: a list, or None for the names found, sorted."""

    containers: tuple[Container, ...]
    classes: tuple[str, ...] | None = None
    labels: dict[str, str] | None = None  # class by the stem of a file, of containers that are `labelled`


def find_sources(kind: str, paths: Sequence[Path], *, classes: Path | None, val_labels: Path | None) -> Sources:
    """The containers at `paths`.

    Raises:
      UserError: a path is missing, holds nothing of the kind, or a list beside it makes no sense.
    """
    for path in paths:
        if not path.exists():
            raise UserError(f"--source {path}: there is no such file or folder")
    names = None
    if KINDS[kind].num_classes:
        names = tuple(synset for synset, _ in class_list(KINDS[kind].num_classes))
    elif classes:
        names = _read_classes(classes)
    if kind == "imagenet1k":
        return _imagenet1k(paths, names, val_labels)
    containers = tuple(container for path in paths for container in _containers(path))
    if not containers:
        raise UserError(f"--source {' '.join(map(str, paths))}: expected class folders or tars, found none")
    return Sources(containers, names)


def _containers(path: Path, split: str | None = None) -> list[Container]:
    """What a tar, a folder of tars, of classes or of splits holds."""
    if path.is_file():
        return inner_tars(path, split)
    entries = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    folders = [entry for entry in entries if entry.is_dir()]
    splits = [] if split else [folder for folder in folders if split_named(folder.name)]
    if splits:
        others = [folder.name for folder in folders if folder not in splits]
        if others:
            raise UserError(
                f"--source {path} holds {splits[0].name}, a split, and {others[0]}, which is none: give the folders of "
                "the splits a folder of their own, or rename what is a class"
            )
        return [container for folder in splits for container in _containers(folder, split_named(folder.name))]
    return [
        Container(str(entry), split=split or "train", class_name=entry.name)
        if entry in folders
        else tar(entry, split=split or "train", class_name=entry.stem)
        for entry in entries
        if entry in folders or entry.suffix == ".tar"
    ]


def _imagenet1k(paths: Sequence[Path], names: tuple[str, ...], val_labels: Path | None) -> Sources:
    folder = paths[0]
    tars = [folder / name for name in (_TRAIN_TAR, _VAL_TAR)]
    absent = [tar.name for tar in tars if not tar.is_file()]
    if len(paths) > 1 or absent:
        raise UserError(f"--source {folder}: expected one folder with {_TRAIN_TAR} and {_VAL_TAR}")
    if val_labels is None:
        raise UserError(
            f"{_VAL_TAR} does not say what its images are: give --val-labels FILE, a synset a line in the order of the "
            "images, or a line an image such as LOC_val_solution.csv has"
        )
    val = tar(tars[1], split="val", labelled=True)
    return Sources((*inner_tars(tars[0], "train"), val), names, _read_labels(val_labels, set(names)))


def _read_classes(path: Path) -> tuple[str, ...]:
    names = tuple(line.strip() for line in _lines(path))
    repeated = {name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else set()
    if not names or repeated:
        raise UserError(
            f"{path}: expected a class a line, each once; {', '.join(sorted(repeated)[:3]) or 'it is empty'}"
        )
    return names


def _read_labels(path: Path, known: set[str]) -> dict[str, str]:
    """The synset by the stem of a validation image's file."""
    rows = [re.split(r"[,\s]+", line.strip()) for line in _lines(path)]
    if rows and rows[0][0] == "ImageId":  # the header of LOC_val_solution.csv
        rows = rows[1:]
    named = bool(rows) and len(rows[0]) > 1
    labels = {
        Path(row[0]).stem if named else f"ILSVRC2012_val_{number:08d}": row[1] if len(row) > 1 else row[0]
        for number, row in enumerate(rows, 1)
    }
    wrong = [f"{stem} {synset}" for stem, synset in labels.items() if synset not in known]
    if not labels or wrong:
        raise UserError(f"{path}: expected a synset of ImageNet-1K for every image, such as n01440764; {wrong[:1]}")
    return labels


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from error
