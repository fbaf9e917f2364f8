"""A data set whose labels are the outputs of a classifier."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from focalnet_jax.data.decode import Picture
from focalnet_jax.data.source import Label, Source


@dataclass(frozen=True)
class Relabelled:
    """A data set whose labels are replaced by outputs of a classifier.

    Attributes:
      source: the data set.
      class_names: class names of the classifier.
      outputs: index of the output for each class of the source, `[K]` int32.
    """

    source: Source
    class_names: tuple[str, ...]
    outputs: np.ndarray

    @property
    def fingerprint(self) -> str:
        """The fingerprint of `source`, because the examples and their order are the same."""
        return self.source.fingerprint

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in self.__dataclass_fields__:  # in unpickling, before `source` exists
            raise AttributeError(name)
        value = getattr(self.source, name)
        return self.outputs[value] if name == "labels" else value

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[Picture, Label]:
        picture, label = self.source[index]
        return picture, np.where(label < 0, np.int32(-1), self.outputs[label])[()]

    def name(self, index: int) -> str:
        """Returns the name of an example in the data set."""
        return self.source.name(index)


def labels_present(source: Source) -> np.ndarray:
    """Returns the sorted labels that occur in a data set, `[M]` int32, without the padding -1.

    Reads all examples if the source has no attribute `labels`.
    """
    known = getattr(source, "labels", None)
    found = set(np.unique(known).tolist()) if known is not None else set()
    for index in range(len(source) if known is None else 0):
        found.update(np.ravel(source[index][1]).tolist())
    return np.array(sorted(found - {-1}), np.int32)


def outputs_present(source: Source) -> set[int]:
    """Returns the labels of a data set's classes. For `Relabelled`, they are outputs of the classifier.

    Classes without examples are left out if the source has an attribute `labels`.
    """
    if hasattr(source, "labels"):
        return set(labels_present(source).tolist())
    if isinstance(source, Relabelled):
        return set(source.outputs.tolist()) - {-1}
    return set(range(len(source.class_names)))
