"""Resamples the mask of a box to the pixels of its image, on the host, because images have different sizes."""

from __future__ import annotations

import numpy as np

from focalnet_jax.data.cutouts import Cutout
from focalnet_jax.data.pixels import numba_compiled


def paste(mask: np.ndarray, box: np.ndarray, size: tuple[int, int], threshold: float = 0.5) -> np.ndarray:
    """Returns the pixels of an image at which the mask of a box is at least the threshold, `[*size]` bool.

    As in mmdetection, the mask is interpolated bilinearly at the centres of pixels, is 0 outside of the box, and is
    computed in float32. If a box has no width, the pixels beside it have the value of the mask's centre column; if it
    has no height, that of the centre row. A box that is not finite has no pixels.

    Args:
      mask: probabilities `[h, w]` in the cells of the box.
      box: x1, y1, x2 and y2 in pixels, `[4]`.
      size: height and width of the image.
      threshold: smallest probability of a pixel of the object.
    """
    return paste_cutout(mask, box, size, threshold).bitmap(size).astype(bool)


def paste_cutout(mask: np.ndarray, box: np.ndarray, size: tuple[int, int], threshold: float = 0.5) -> Cutout:
    """Returns the pixels of `paste` in a rectangle around the box. The arguments are those of `paste`."""
    x1, y1, x2, y2 = np.float32(box)
    top, rows, down = _places(y1, y2, size[0], mask.shape[0])
    left, columns, right = _places(x1, x2, size[1], mask.shape[1])
    out = np.zeros((len(rows), len(columns)), bool)
    _paste(np.float32(mask), rows, down, columns, right, np.float32(threshold), out)
    return Cutout(top, left, out)


def _places(begin: np.float32, end: np.float32, length: int, cells: int) -> tuple[int, np.ndarray, np.ndarray]:
    """Returns the pixels near a box along an axis, and their positions relative to the cells of the mask.

    Returns:
      The first pixel; the cell before each pixel `[n]` int64, -2 if it is outside of the mask; and the weight of the
      cell after it `[n]` float32.
    """
    if not (np.isfinite(begin) and np.isfinite(end)):
        return 0, np.zeros(0, np.int64), np.zeros(0, np.float32)
    # Clipped as float64, because a coordinate may be too large for int64.
    first = int(min(max(np.floor(np.float64(begin)) - 1, 0), length))
    last = int(min(max(np.ceil(np.float64(end)) + 1, 0), length))
    centres = np.arange(first, max(last, first), dtype=np.float32) + np.float32(0.5)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        places = (centres - begin) / (end - begin) * np.float32(2) - np.float32(1)  # -1 to 1 inside the box
    places[np.isinf(places)] = 0
    places = (places + np.float32(1)) * np.float32(cells / 2) - np.float32(0.5)
    inside = (places > -1) & (places < cells)  # False for NaN
    places = np.where(inside, places, np.float32(0))
    before = np.floor(places)
    return first, np.where(inside, before, -2).astype(np.int64), places - before


@numba_compiled
def _paste(mask, rows, down, columns, right, threshold, out):  # pragma: no cover - compiled
    """Writes to `out` whether the interpolated mask is at least the threshold."""
    height, width = mask.shape
    one, zero = np.float32(1), np.float32(0)
    for i in range(rows.size):
        top, v = rows[i], down[i]
        for j in range(columns.size):
            left, u = columns[j], right[j]
            value = zero
            if top >= -1 and left >= -1:
                if top >= 0 and left >= 0:
                    value += mask[top, left] * ((one - v) * (one - u))
                if top >= 0 and left + 1 < width:
                    value += mask[top, left + 1] * ((one - v) * u)
                if top + 1 < height and left >= 0:
                    value += mask[top + 1, left] * (v * (one - u))
                if top + 1 < height and left + 1 < width:
                    value += mask[top + 1, left + 1] * (v * u)
            out[i, j] = value >= threshold
