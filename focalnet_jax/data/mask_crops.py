"""Packs the masks of objects into crops of a fixed size in bytes, which are copied to the devices."""

from __future__ import annotations

import numpy as np

from focalnet_jax.data.pixels import numba_compiled


def packed_crop(mask: np.ndarray, left: int, top: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the crop of an object's mask as bits, and the rectangle of the image that it covers.

    The crop has `side` x `side` cells. Along an axis on which the object has at most `side` pixels, a cell is a pixel,
    and the remaining cells at the end are 0. Along a longer axis, the object is reduced to `side` cells. A cell is 1 if
    the object covers at least half of its area.

    Args:
      mask: pixels of the object in a rectangle of the image, `[h, w]` of 0 and 1.
      left: first column of the rectangle.
      top: first row of the rectangle.
      side: number of cells M along each axis, a multiple of 8.

    Returns:
      Bits `[M, M / 8]` uint8, the first column in the highest bit; and x1, y1, x2, y2 of the smallest rectangle with
      all pixels of the object, `[4]` float32, all 0 for an empty mask.
    """
    cells = np.zeros((side, side), bool)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return np.packbits(cells, axis=1), np.zeros(4, np.float32)
    inside = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    height, width = inside.shape
    if max(height, width) > side:
        # Transposed, because the masks of objects are stored by columns.
        _reduce(inside.T, cells[: min(height, side), : min(width, side)].T)
    else:
        cells[:height, :width] = inside
    frame = [left + columns[0], top + rows[0], left + columns[-1] + 1, top + rows[-1] + 1]
    return np.packbits(cells, axis=1), np.array(frame, np.float32)


@numba_compiled
def _reduce(pixels, cells):  # pragma: no cover - compiled
    """Sets each cell to whether pixels of value 1 cover at least half of its area.

    Areas are integers: an axis of n pixels and m cells is divided into n * m units, m per pixel and n per cell.
    """
    (height, width), (rows, columns) = pixels.shape, cells.shape
    cell, here = np.empty(width, np.int64), np.empty(width, np.int64)  # of each column: its cell, and units in it
    for x in range(width):
        cell[x] = x * columns // width
        here[x] = min((x + 1) * columns, (cell[x] + 1) * width) - x * columns
    covered = np.zeros((rows, columns + 1), np.int64)
    line = np.zeros(columns + 1, np.int64)  # units of each cell that a row of pixels covers
    for y in range(height):
        line[:] = 0
        for x in range(width):
            if pixels[y, x]:
                line[cell[x]] += here[x]
                line[cell[x] + 1] += columns - here[x]
        first = y * rows // height
        units = min((y + 1) * rows, (first + 1) * height) - y * rows
        for column in range(columns):
            covered[first, column] += units * line[column]
        if units < rows:
            for column in range(columns):
                covered[first + 1, column] += (rows - units) * line[column]
    for row in range(rows):
        for column in range(columns):
            cells[row, column] = 2 * covered[row, column] >= height * width
