"""Interface of a data source, which gives random access to images, encoded or decoded, and their labels."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Protocol

import numpy as np

from focalnet_jax.data.decode import Picture
from focalnet_jax.errors import UserError

Label = np.ndarray | np.int32


class Source(Protocol):
    """A split of a data set, whose examples are read by index.

    A source that knows all labels without reading examples also has an attribute `labels`, `[N]` int32.
    """

    class_names: tuple[str, ...]
    fingerprint: str  # differs between different data sets

    def __len__(self) -> int:
        """Returns the number of examples."""

    def __getitem__(self, index: int) -> tuple[Picture, Label]:
        """Returns the image and its label, or the image and all its labels `[M]` padded with -1."""

    def name(self, index: int) -> str:
        """Returns the name of an example for messages, such as its path."""


def describe_source(source: Source) -> str:
    """Returns at most 200 characters by which hosts check that they read the same data.

    The text contains the numbers of examples and classes, the fingerprint and the first class names.
    """
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
    """Raises `UserError` if a training split has class folders without images."""
    for folder, held in getattr(source, "empty", {}).items():
        raise UserError(
            f"class folder {folder} contains no images; {held}: add images (convert unsupported files), or remove the "
            "folder from all splits"
        )


def check_class_count(source: Source, outputs: int, key: str = "model.num_classes") -> None:
    """Raises `UserError` if a source has more classes than `outputs`, the number of outputs that config `key` sets."""
    classes = len(source.class_names)
    if classes > outputs:
        raise UserError(
            f"the data has {classes} classes, labels 0 to {classes - 1}, but {key} is {outputs}: "
            f"set --config.{key}={classes}"
        )
