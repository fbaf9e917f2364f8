"""Stores the pixels of an object in a rectangle, with far less memory and time than a bitmap of the whole image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from focalnet_jax.data.geometry import gather
from focalnet_jax.data.segments import Segment, Size, encoding_of, text_of_counts


@dataclass(frozen=True, eq=False)
class Cutout:
    """The pixels of an object in a rectangle of an image. No pixel outside the rectangle belongs to the object.

    Attributes:
      top: first row of the rectangle.
      left: first column of the rectangle.
      pixels: whether each pixel of the rectangle belongs to the object, `[h, w]` bool.
    """

    top: int
    left: int
    pixels: np.ndarray

    def bitmap(self, size: Size) -> np.ndarray:
        """Returns the pixels of the object in an image of height and width `size`, `[H, W]` uint8 of 0 and 1."""
        out = np.zeros(size, np.uint8)
        height, width = self.pixels.shape
        out[self.top : self.top + height, self.left : self.left + width] = self.pixels
        return out

    def gathered(self, rows: np.ndarray, columns: np.ndarray) -> Cutout:
        """Returns the object in an image made of rows and columns of this one, such as a crop or a nearest resize.

        Args:
          rows: row of this image for each row of the new image, `[H]`, ascending.
          columns: column of this image for each column of the new image, `[W]`, ascending, or descending if the new
            image is mirrored.
        """
        height, width = self.pixels.shape
        inside_rows = np.flatnonzero((rows >= self.top) & (rows < self.top + height))
        inside_columns = np.flatnonzero((columns >= self.left) & (columns < self.left + width))
        if not (inside_rows.size and inside_columns.size):
            return Cutout(0, 0, np.zeros((0, 0), bool))
        pixels = np.empty((inside_columns.size, inside_rows.size), bool)
        gather(self.pixels.T, columns[inside_columns] - self.left, rows[inside_rows] - self.top, pixels)
        return Cutout(int(inside_rows[0]), int(inside_columns[0]), pixels.T)


def cutout_of(segment: Segment, size: Size) -> Cutout:
    """Returns the pixels of an object in the smallest rectangle that contains them, equal to those of `bitmap`.

    Args:
      segment: polygons or run-length encoding.
      size: height and width of the image.

    Raises:
      UnreadableSegmentError: see `bitmap`.
    """
    from hotcoco import mask  # see `bitmap`

    encoding = encoding_of(segment, size)
    left, top, width, height = (int(side) for side in mask.toBbox(encoding))
    if not width * height:
        return Cutout(0, 0, np.zeros((0, 0), bool))
    pixels = mask.decode(encoding)[top : top + height, left : left + width]
    return Cutout(top, left, pixels.astype(bool))  # stored by columns, which is faster


def encode_cutout(cutout: Cutout, size: Size) -> dict[str, Any]:
    """Returns the compressed run-length encoding of an object in an image, equal to that of `encode_bitmap`."""
    height, width = cutout.pixels.shape
    framed = np.zeros((width, height + 2), np.int8)  # column by column, like the runs
    framed[:, 1:-1] = cutout.pixels.T
    steps = np.diff(framed, axis=1)
    columns, rows = np.nonzero(steps)  # a run begins, ends, begins, ...
    edges = (cutout.left + columns) * size[0] + cutout.top + rows
    # A run at the lower edge of the image continues in the next column.
    joined = np.flatnonzero(edges[1:-1:2] == edges[2::2])
    edges = np.delete(edges, np.concatenate([2 * joined + 1, 2 * joined + 2]))
    counts = np.diff(edges, prepend=0, append=size[0] * size[1])
    return {"size": list(size), "counts": text_of_counts(counts[: -1 if len(edges) and not counts[-1] else None], size)}


def cutout_of_crop(packed: np.ndarray, frame: np.ndarray) -> Cutout:
    """Returns the pixels of an object whose mask is a crop of a fixed number of cells, see `mask_crops.packed_crop`.

    Args:
      packed: bits of the cells, `[M, M / 8]` uint8.
      frame: x1, y1, x2 and y2 of the rectangle in pixels, `[4]`.
    """
    left, top, right, bottom = (int(side) for side in frame)
    cells = np.unpackbits(packed, axis=-1)
    rows, columns = (
        ((np.arange(length) + 0.5) * (min(length, len(cells)) / max(length, 1))).astype(np.int64)
        for length in (bottom - top, right - left)
    )
    return Cutout(top, left, cells[rows][:, columns] > 0)
