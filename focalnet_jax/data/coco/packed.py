"""Stores the polygons of many objects in a few arrays, which need little memory and are fast to copy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

_HUNDREDTHS = 100  # COCO's coordinates have two decimals


class PackedSegments:
    """A sequence of the segments of objects: polygons, run-length encodings or None. Coordinates are kept exactly.

    Args:
      segments: for each object, polygons as sequences of numbers, a run-length encoding, or None.
    """

    def __init__(self, segments: Sequence[Any]):
        self._encodings = {row: segment for row, segment in enumerate(segments) if isinstance(segment, dict)}
        self._missing = frozenset(row for row, segment in enumerate(segments) if segment is None)
        polygons = [() if segment is None or isinstance(segment, dict) else segment for segment in segments]
        self._parts = _starts([len(parts) for parts in polygons])
        flat = [np.asarray(part, np.float64) for parts in polygons for part in parts]
        self._ends = _starts([len(part) for part in flat])
        values = np.concatenate(flat) if flat else np.zeros(0)
        del flat
        with np.errstate(over="ignore", invalid="ignore"):
            rounded = np.round(values * _HUNDREDTHS)
            exact = (np.abs(rounded) < 2**31).all() and (rounded / _HUNDREDTHS == values).all()
        self._values = rounded.astype(np.int32) if exact else values

    def __len__(self) -> int:
        return len(self._parts) - 1

    def __getitem__(self, row: int) -> list[np.ndarray] | dict[str, Any] | None:
        """Returns the segment of an object: a list of polygons `[2 n]` float64, a run-length encoding, or None."""
        if row in self._encodings:
            return self._encodings[row]
        if row in self._missing:
            return None
        parts = range(self._parts[row], self._parts[row + 1])
        found = [self._values[self._ends[part] : self._ends[part + 1]] for part in parts]
        return [part / _HUNDREDTHS if part.dtype == np.int32 else part for part in found]


def _starts(lengths: Sequence[int]) -> np.ndarray:
    """Returns the first index of each sequence in their concatenation, and the end of the last one."""
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)
