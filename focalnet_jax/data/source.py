"""The interface of a data source: random access by index to an encoded or decoded image and its label."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Protocol

import numpy as np

from focalnet_jax.data.decode import Picture
from focalnet_jax.errors import UserError

Label = np.ndarray | np.int32


class Source(Protocol):
    """A split of a data set: examples by index.

    If all labels are known without reading examples, the source has an attribute `labels`, `[N]` int32.
    """

    class_names: tuple[str, ...]
    fingerprint: str  # differs between different data sets

    def __len__(self) -> int:
        """Number of examples."""

    def __getitem__(self, index: int) -> tuple[Picture, Label]:
        """Returns the image and its label, or the image and all its labels `[M]` padded with -1."""

    def name(self, index: int) -> str:
        """Returns the name of an example in messages, such as its file."""


def describe_source(source: Source) -> str:
    """Returns the numbers of examples and classes, fingerprint and first class names, for comparison between hosts."""
    numbers = f"{len(source)} examples, {len(source.class_names)} classes, fingerprint {source.fingerprint}"
    return f"{numbers}, {'/'.join(source.class_names)}"[:200]


def fingerprint_of(parts: Iterable[str]) -> str:
    """Returns the first twelve hexadecimal digits of the SHA-256 of `parts`."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode(errors="surrogateescape") + b"\0")  # file names may be any bytes
    return digest.hexdigest()[:12]


def are_numbers(names: Iterable[str]) -> bool:
    """Returns whether all class names are decimal numbers."""
    return all(name.isascii() and name.isdecimal() for name in names)


def check_examples(source: Source) -> None:
    """Raises `UserError` if a split to train on has class folders without images."""
    for folder, held in getattr(source, "empty", {}).items():
        raise UserError(
            f"class folder {folder} holds no images; {held}: fill it, convert them, or remove it from all splits"
        )


def check_class_count(source: Source, outputs: int, key: str = "model.num_classes") -> None:
    """Raises `UserError` if a source has more classes than the classifier has `outputs`, the value of config `key`."""
    classes = len(source.class_names)
    if classes > outputs:
        raise UserError(
            f"the data has {classes} classes, labels 0 to {classes - 1}, but {key} is {outputs}: "
            f"set --config.{key}={classes}"
        )
