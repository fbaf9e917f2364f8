"""Crops of the masks of objects with a fixed size in bytes, on the way to the devices."""

from __future__ import annotations

import numpy as np


def packed_crop(mask: np.ndarray, left: int, top: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the crop of an object's mask as bits, and the rectangle of the image that it covers.

    Along an axis with at most `side` pixels, a cell of the crop is a pixel. Along a longer axis, a cell is the average
    of pixels, and belongs to the object if the average is at least 0.5.

    Args:
      mask: pixels of the object in a rectangle of the image, `[h, w]` of 0 and 1.
      left: first column of the rectangle.
      top: first row of the rectangle.
      side: number of cells M along each axis, a multiple of 8.

    Returns:
      Bits `[M, M / 8]` uint8, the first column in the highest bit; and x1, y1, x2, y2 of the smallest rectangle with
      all pixels of the object, `[4]` float32. An empty mask has an empty rectangle at 0.
    """
    cells = np.zeros((side, side), np.uint8)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return np.packbits(cells, axis=1), np.zeros(4, np.float32)
    inside = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    reduced = _reduced(_reduced(np.asarray(inside, np.float32), side).T, side).T
    cells[: reduced.shape[0], : reduced.shape[1]] = reduced >= 0.5
    frame = [left + columns[0], top + rows[0], left + columns[-1] + 1, top + rows[-1] + 1]
    return np.packbits(cells, axis=1), np.array(frame, np.float32)


def _reduced(values: np.ndarray, most: int) -> np.ndarray:
    """Returns averages of rows, `[most, w]`, of an array `[h, w]` with more than `most` rows; or the array itself."""
    height = len(values)
    if height <= most:
        return values
    edges = np.arange(most + 1) * (height / most)  # where the cells begin, in rows
    whole = np.floor(edges).astype(np.int64)
    sums = np.concatenate([np.zeros((1, values.shape[1]), np.float64), np.cumsum(values, axis=0, dtype=np.float64)])
    last = np.concatenate([values, values[-1:]])[whole]  # the row that each edge lies in
    until = sums[whole] + (edges - whole)[:, None] * last
    return np.diff(until, axis=0) * (most / height)
