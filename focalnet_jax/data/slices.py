"""Selects evenly spaced examples of a source, for evaluations on a part of a data set."""

from __future__ import annotations

from typing import Any

from focalnet_jax.data.source import Source, fingerprint_of
from focalnet_jax.errors import UserError


class EvenlySpaced:
    """`count` evenly spaced examples of a source.

    If the source is sorted by class, this selects about the same fraction of every class.

    Raises:
      UserError: the source has fewer than `count` examples.
    """

    def __init__(self, whole: Source, count: int):
        if count > len(whole):
            raise UserError(f"examples={count}, but the data has only {len(whole)} examples: set {len(whole)} or less")
        self._whole, self._count = whole, count
        self.class_names = whole.class_names
        self.fingerprint = fingerprint_of([whole.fingerprint, str(count)])
        if hasattr(whole, "labels"):
            self.labels = whole.labels[[self._source_index(index) for index in range(count)]]

    def _source_index(self, index: int) -> int:
        return index * len(self._whole) // self._count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Any:
        if not 0 <= index < self._count:
            raise IndexError(index)
        return self._whole[self._source_index(index)]

    def name(self, index: int) -> str:
        """Returns the name of an example of this subset, as in the whole source."""
        return self._whole.name(self._source_index(index))
