"""Where examples come from: random access by index to an encoded or decoded picture and its label."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from importlib.metadata import distribution
from pathlib import Path
from typing import Protocol

import numpy as np

from focalnet_jax.data.decode import Picture
from focalnet_jax.errors import UserError, suggest

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
DIGITS_SPLITS = ("train", "val")
_DIGITS_FILE = "sklearn/datasets/data/digits.csv.gz"  # 64 numbers from 0 to 16 and a label a row


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


def fingerprint_of(parts: Iterable[str]) -> str:
    """Twelve hexadecimal digits of a SHA-256."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() + b"\0")
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
        self._labels = rows[:, -1]
        self.fingerprint = fingerprint_of(["digits", split, "every fourth"])

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[Picture, Label]:
        return self._images[index], self._labels[index]

    def name(self, index: int) -> str:
        """Which digit of the split."""
        return f"digit {index}"


class FolderSource:
    """A tree of class folders, `PATH/SPLIT/CLASS/**/*.jpg` (or jpeg, png, webp); labels are the sorted folders' order.

    Raises:
      UserError: the path, the split or its class folders are missing or hold no images.
    """

    def __init__(self, path: str | None, split: str):
        if path is None:
            raise UserError("data.source=folder needs data.path, a directory with one folder a split: set data.path")
        root = Path(path)
        if not path or not split:
            raise UserError(f"data.path={path!r} and split {split!r}: neither may be empty")
        if not root.is_dir():
            raise UserError(f"data.path={path} is not a directory; expected one that holds {split}/CLASS/*.jpg")
        folder = root / split
        if not folder.is_dir():
            found = sorted(entry.name for entry in root.iterdir() if entry.is_dir())
            raise UserError(
                f"{root} has no split {split!r}; it holds {', '.join(found) or 'no folders'}: make {folder} or name "
                f"another with data.train_split and data.eval_split.{suggest(split, found)}"
            )
        classes = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
        if not classes:
            raise UserError(f"{folder} holds no class folders; expected {folder}/CLASS/*.jpg")
        self.class_names = tuple(entry.name for entry in classes)
        self._folder = folder
        self._files: list[str] = []  # below the folder; millions of paths would take the host's memory
        labels: list[int] = []
        for label, entry in enumerate(classes):
            files = images_below(entry)
            if not files:
                kinds = ", ".join(IMAGE_SUFFIXES)
                raise UserError(f"class folder {entry} holds no images ({kinds}): fill it or remove it")
            self._files += [os.path.relpath(file, folder) for file in files]
            labels += [label] * len(files)
        self._labels = np.array(labels, np.int32)
        self.fingerprint = fingerprint_of(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[Picture, Label]:
        return self.name(index), self._labels[index]

    def name(self, index: int) -> str:
        """The file."""
        return os.path.join(self._folder, self._files[index])


def images_below(folder: Path, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> list[str]:
    """The images in a folder and its folders, sorted, without hidden ones."""
    return sorted(
        os.path.join(parent, name)
        for parent, _, names in os.walk(folder)
        for name in names
        if name.lower().endswith(suffixes) and not name.startswith(".")
    )


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
        return FolderSource(path, split)
    if name == "tfds":
        from focalnet_jax.data.tfds_source import TfdsSource  # only this source needs the library

        return TfdsSource(path, split)
    raise UserError(f"unknown data.source {name!r}; expected {' or '.join(SOURCES)}.{suggest(name, SOURCES)}")


def check_labels(source: Source, outputs: int, key: str = "model.num_classes") -> None:
    """Refuses a source of more classes than the classifier has `outputs`, as the config's `key` says."""
    classes = len(source.class_names)
    if classes > outputs:
        raise UserError(
            f"the data has {classes} classes, labels 0 to {classes - 1}, but {key} is {outputs}: "
            f"set --config.{key}={classes}"
        )


def check_same_classes(left: tuple[str, ...], left_name: str, right: tuple[str, ...], right_name: str) -> None:
    """Refuses class names between which labels would not mean the same."""
    if left != right:
        differing = sorted(set(left) ^ set(right)) or ["their order"]
        raise UserError(
            f"the classes of {left_name} and {right_name} differ in {', '.join(differing[:5])}"
            f"{' and more' if len(differing) > 5 else ''}; labels would not mean the same"
        )
