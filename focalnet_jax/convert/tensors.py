"""Tensors of a file, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
from ml_dtypes import bfloat16

DTYPES = {"float32": np.dtype("float32"), "float16": np.dtype("float16"), "bfloat16": np.dtype(bfloat16)}


class Tensors(Mapping[str, np.ndarray]):
    """Tensors of a file by name, each read when it is asked for; `notes` is what a reader should know of the file."""

    def __init__(
        self,
        shapes: dict[str, tuple[int, ...]],
        dtypes: dict[str, str],
        read: Callable[[str], np.ndarray],
        notes: tuple[str, ...] = (),
    ):
        self.shapes, self.dtypes, self._read, self.notes = shapes, dtypes, read, notes

    def __getitem__(self, name: str) -> np.ndarray:
        return self._read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)

    def renamed(self, names: Mapping[str, str]) -> Tensors:
        """The tensors named by the keys of `names`, under its values' names in this file."""
        return Tensors(
            {new: self.shapes[old] for new, old in names.items()},
            {new: self.dtypes[old] for new, old in names.items()},
            lambda new: self._read(names[new]),
            self.notes,
        )
