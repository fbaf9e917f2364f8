"""Where examples come from: random access by index to an encoded or decoded picture and its label."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from importlib.metadata import distribution
from pathlib import Path
from typing import Protocol

import numpy as np

from focalnet_jax.data.decode import Picture
from focalnet_jax.data.listing import Listing, list_folders, list_pictures
from focalnet_jax.errors import UserError, suggest

DIGITS_SPLITS = ("train", "val")
_DIGITS_FILE = "sklearn/datasets/data/digits.csv.gz"  # 64 numbers from 0 to 16 and a label a row
# What the folders of splits are called.
_SPLIT_WORDS = {"train", "training", "val", "valid", "validation", "test", "testing"}
_NAMED = 10  # folders, in a message


Label = np.ndarray | np.int32


class Source(Protocol):
    """Examples by index."""

    class_names: tuple[str, ...]
    fingerprint: str  # another one is another data set

    def __len__(self) -> int:
        """Number of examples."""

    def __getitem__(self, index: int) -> tuple[Picture, Label]:
        """The picture and its label, or all its labels `[M]`, filled up with -1."""

    def name(self, index: int) -> str:
        """What to call the example in a message."""

    # Where all labels are known without reading examples: `labels`, `[N]` int32.


def describe(source: Source) -> str:
    """Returns the number of examples and classes, the fingerprint and the first names, to compare processes by."""
    numbers = f"{len(source)} examples, {len(source.class_names)} classes, fingerprint {source.fingerprint}"
    return f"{numbers}, {'/'.join(source.class_names)}"[:200]


def fingerprint_of(parts: Iterable[str]) -> str:
    """Twelve hexadecimal digits of a SHA-256."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode(errors="surrogateescape") + b"\0")  # names of files may be of any bytes
    return digest.hexdigest()[:12]


class DigitsSource:
    """The 1797 handwritten digits that come with scikit-learn (UCI ML repository): 8x8, grey, 10 classes.

    `val` is every fourth of each class, for every run alike; `train` is the rest.
    """

    class_names = tuple("0123456789")

    def __init__(self, split: str):
        if split not in DIGITS_SPLITS:
            raise UserError(f"data.source=digits has no split {split!r}; expected {' or '.join(DIGITS_SPLITS)}")
        # Its file alone, because scikit-learn takes a second to import.
        rows = np.loadtxt(distribution("scikit-learn").locate_file(_DIGITS_FILE), delimiter=",", dtype=np.int32)
        held_out = np.zeros(len(rows), bool)
        held_out[np.argsort(rows[:, -1], kind="stable")[::4]] = True
        rows = rows[held_out if split == "val" else ~held_out]
        grey = np.round(rows[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
        self._images = np.repeat(grey[..., None], 3, axis=-1)  # [N, 8, 8, 3]
        self.labels = rows[:, -1]
        self.fingerprint = fingerprint_of(["digits", split, "every fourth"])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Picture, Label]:
        return self._images[index], self.labels[index]

    def name(self, index: int) -> str:
        """Which digit of the split."""
        return f"digit {index}"


class FolderSource:
    """A tree of class folders, `PATH/SPLIT/CLASS/**/*.jpg` (or any of `IMAGE_SUFFIXES`).

    Labels are the places of the folders in sorted order: of numbers, where all of their names are numbers. A folder
    without images is a class without examples.

    Attributes:
      empty: what the class folders without images hold instead, in words.
      note: what is left out of the split, by kind and number, or an empty string.

    Raises:
      UserError: the path, the split or its class folders are missing or hold no images, or are not what they should be.
    """

    def __init__(self, path: str | None, split: str):
        if path is None:
            raise UserError("data.source=folder needs data.path, a directory with one folder a split: set data.path")
        if not path or not split:
            raise UserError(f"data.path={path!r} and split {split!r}: neither may be empty")
        folder = _split_folder(Path(path), split)
        classes, outside = list_folders(folder)
        _check_class_folders(folder, classes, outside)
        names = [entry.name for entry in classes]
        # Files stay in the order of texts, by which data are recognised.
        self.class_names = tuple(sorted(names, key=lambda name: (int(name), name)) if are_numbers(names) else names)
        self._folder = folder
        self._files: list[str] = []  # below the folder; millions of paths would take the host's memory
        labels: list[int] = []
        left_out = outside.elsewhere("outside the class folders")
        outputs = {name: label for label, name in enumerate(self.class_names)}
        self.empty: dict[Path, str] = {}
        below: set[str] = set()  # folders right below the classes, "" for a class with pictures of its own
        for entry in classes:
            found = list_pictures(entry)
            if not found.pictures:
                self.empty[entry] = found.held
            start = len(os.path.join(entry, ""))
            below.update(file[start:].rpartition(os.sep)[0].partition(os.sep)[0] for file in found.pictures)
            self._files += [os.path.relpath(file, folder) for file in found.pictures]
            labels += [outputs[entry.name]] * len(found.pictures)
            left_out += replace(found, pictures=[])
        if not self._files:
            raise UserError(f"class folder {classes[0]} holds no images; {self.empty[classes[0]]}: fill it")
        if len(below) > 1 and _SPLIT_WORDS.issuperset(map(str.lower, below)):
            raise UserError(
                f"the classes in {folder} hold {_first(sorted(below))}, which are splits; expected SPLIT/CLASS/*.jpg, "
                "not CLASS/SPLIT/*.jpg: move the folders"
            )
        self._labels = np.array(labels, np.int32)
        self.fingerprint = fingerprint_of(self._files)
        self.note = f"{folder}: left out {left_out.told}" if left_out.left_out else ""

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[Picture, Label]:
        return self.name(index), self._labels[index]

    @property
    def labels(self) -> np.ndarray:
        """The label of every example, `[N]` int32."""
        return self._labels

    def name(self, index: int) -> str:
        """The file."""
        return os.path.join(self._folder, self._files[index])


def _split_folder(root: Path, split: str) -> Path:
    """The folder of a split; `UserError` that says where it is, if near, or what is there instead."""
    if not root.is_dir():
        what = "is a file, and is not a directory" if root.exists() else "is not a directory"
        raise UserError(f"data.path={root} {what}; expected one that holds {split}/CLASS/*.jpg")
    folder = root / split
    if folder.is_dir():
        return folder
    folders, files = list_folders(root)
    near = [entry for entry in folders if (entry / split).is_dir()]
    near += [parent for parent in root.absolute().parents[:2] if (parent / split).is_dir()]
    names = [entry.name for entry in folders]
    held = f"it holds {_first(names)}" if names else files.held
    if near:
        todo = f"{near[0]} has it: set data.path={near[0]}"
    else:
        todo = f"make {folder} or name another with data.train_split and data.eval_split.{suggest(split, names)}"
    raise UserError(f"{root} has no split {split!r}; {held}: {todo}")


def _check_class_folders(folder: Path, classes: Sequence[Path], outside: Listing) -> None:
    """Raises `UserError` where class folders are missing, or hold splits or classes themselves."""
    if outside.broken:  # it may be a class, and its labels those of the others
        raise UserError(f"{outside.broken[0]} is a link to something that is not there: repair or remove it")
    names = [entry.name for entry in classes]
    if not names:
        raise UserError(f"{folder} holds no class folders; expected {folder}/CLASS/*.jpg; {outside.held}")
    if _SPLIT_WORDS.issuperset(map(str.lower, names)):
        raise UserError(f"{folder} holds {_first(names)}, which are splits, not classes: set data.path={folder}")
    odd = [name for name in names if not name.isprintable()]
    if odd:
        raise UserError(f"class folder {odd[0]!r} in {folder} has a name that is not printable UTF-8: rename it")
    inside, files = list_folders(classes[0]) if len(classes) == 1 else ([], outside)
    if len(inside) > 1 and not files.pictures:
        raise UserError(
            f"{folder} holds one folder, {names[0]}, which holds folders alone: "
            f"{_first([entry.name for entry in inside])}; if these are the classes, move them to {folder}"
        )


def _first(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def are_numbers(names: Iterable[str]) -> bool:
    """Whether all class names are numbers."""
    return all(name.isascii() and name.isdecimal() for name in names)


SOURCES = ("digits", "folder", "tfds")


def open_source(name: str, path: str | None, split: str) -> Source:
    """The split of a data source by the name configs use."""
    if name == "digits":
        if path is not None:
            raise UserError(
                f"data.path={path} has no use with data.source=digits: add --config.data.source=folder or tfds"
            )
        return DigitsSource(split)
    if name == "folder":
        source = FolderSource(path, split)
        if source.note:
            print(source.note, file=sys.stderr)
        return source
    if name == "tfds":
        from focalnet_jax.data.tfds_source import TfdsSource  # only this source needs the library

        return TfdsSource(path, split)
    raise UserError(f"unknown data.source {name!r}; expected {' or '.join(SOURCES)}.{suggest(name, SOURCES)}")


def check_examples(source: Source) -> None:
    """Raises `UserError` if a split to train on has class folders without images."""
    for folder, held in getattr(source, "empty", {}).items():
        raise UserError(
            f"class folder {folder} holds no images; {held}: fill it, convert them, or remove it from all splits"
        )


def check_labels(source: Source, outputs: int, key: str = "model.num_classes") -> None:
    """Refuses a source of more classes than the classifier has `outputs`, as the config's `key` says."""
    classes = len(source.class_names)
    if classes > outputs:
        raise UserError(
            f"the data has {classes} classes, labels 0 to {classes - 1}, but {key} is {outputs}: "
            f"set --config.{key}={classes}"
        )
