"""The tensors of a file, by name."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any

import numpy as np
from ml_dtypes import bfloat16

# NumPy dtypes that can be written, by name. The names of those that can be read are in `READ_DTYPES`.
DTYPES = {"float32": np.dtype("float32"), "float16": np.dtype("float16"), "bfloat16": np.dtype(bfloat16)}
READ_DTYPES = (*DTYPES, "float64")


class Tensors(Mapping[str, np.ndarray]):
    """Tensors of a file by name, each read on access.

    Args:
      shapes: shapes by name.
      dtypes: dtypes by name, such as "float32".
      read: function that reads one tensor.
      notes: notes on the file for the user.
      problems: reasons, by name, why tensors cannot be read.
      others: types, by name, of entries that are not tensors.
      class_lists: class names of a classifier, by the name of their entry in the file.
      configs: configs of mmsegmentation or mmdetection as text, by the name of their entry in the file.
      palettes: colours `(red, green, blue)` of classes, by the name of their entry in the file.
      places: by name, values that are equal for tensors with the same memory, shape and strides. By default, the values
        of all tensors differ.
    """

    def __init__(
        self,
        shapes: dict[str, tuple[int, ...]],
        dtypes: dict[str, str],
        read: Callable[[str], np.ndarray],
        notes: tuple[str, ...] = (),
        *,
        problems: Mapping[str, str] | None = None,
        others: Mapping[str, str] | None = None,
        class_lists: Mapping[str, tuple[str, ...]] | None = None,
        palettes: Mapping[str, tuple[tuple[int, int, int], ...]] | None = None,
        configs: Mapping[str, str] | None = None,
        places: Mapping[str, Hashable] | None = None,
    ):
        self.shapes, self.dtypes, self._read, self.notes = shapes, dtypes, read, notes
        self.problems, self.others, self.places = problems or {}, others or {}, places or {}
        self.class_lists, self.palettes, self.configs = class_lists or {}, palettes or {}, configs or {}

    def __getitem__(self, name: str) -> np.ndarray:
        return self._read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)

    def selected(self, names: Mapping[str, str], note: str) -> Tensors:
        """Returns tensors with new names. All other contents of the file stay, and a note is added.

        Args:
          names: old name by new name. Other tensors are left out.
          note: one line for the user.
        """
        return Tensors(
            {new: self.shapes[old] for new, old in names.items()},
            {new: self.dtypes[old] for new, old in names.items()},
            lambda new: self._read(names[new]),
            (*self.notes, note),
            problems={new: self.problems[old] for new, old in names.items() if old in self.problems},
            others=self.others,
            class_lists=self.class_lists,
            palettes=self.palettes,
            configs=self.configs,
            places={new: self.places.get(old, old) for new, old in names.items()},
        )

    def renamed(self, names: Mapping[str, str], added: Mapping[str, Any] | None = None) -> Tensors:
        """Returns tensors with new names. Of the other contents of the file, only the notes stay.

        Args:
          names: old name by new name. Other tensors are left out.
          added: additional arrays by name.
        """
        added = added or {}
        return Tensors(
            {new: self.shapes[old] for new, old in names.items()} | {name: a.shape for name, a in added.items()},
            {new: self.dtypes[old] for new, old in names.items()} | {name: str(a.dtype) for name, a in added.items()},
            lambda new: added[new] if new in added else self._read(names[new]),
            self.notes,
        )
