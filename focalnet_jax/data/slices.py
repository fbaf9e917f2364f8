"""A part of a source."""

from __future__ import annotations

from typing import Any

from focalnet_jax.data.sources import Source, fingerprint_of
from focalnet_jax.errors import UserError


class EvenlySpaced:
    """A number of examples of a source, evenly spaced: of sorted examples some of every kind.

    Raises:
      UserError: the source has fewer.
    """

    def __init__(self, whole: Source, count: int):
        if count > len(whole):
            raise UserError(f"{count} examples are asked for, and the data has {len(whole)}")
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
        """As the whole source names it."""
        return self._whole.name(self._place(index))
