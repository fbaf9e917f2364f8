"""Evenly spaced examples of a source, for evaluations on a part of a data set."""

from __future__ import annotations

from typing import Any

from focalnet_jax.data.source import Source, fingerprint_of
from focalnet_jax.errors import UserError


class EvenlySpaced:
    """`count` evenly spaced examples of a source, which cover all classes of a sorted source.

    Raises:
      UserError: the source has fewer examples.
    """

    def __init__(self, whole: Source, count: int):
        if count > len(whole):
            raise UserError(f"examples={count}: the data has only {len(whole)}")
        self._whole, self._count = whole, count
        self.class_names = whole.class_names
        self.fingerprint = fingerprint_of([whole.fingerprint, str(count)])
        if hasattr(whole, "labels"):
            self.labels = whole.labels[[self._place(index) for index in range(count)]]

    def _place(self, index: int) -> int:
        return index * len(self._whole) // self._count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Any:
        if not 0 <= index < self._count:
            raise IndexError(index)
        return self._whole[self._place(index)]

    def name(self, index: int) -> str:
        """Returns the name of an example in the whole source."""
        return self._whole.name(self._place(index))
