"""Resizes, crops and mirrors images and label maps together, with the same pixels as OpenCV.

mmsegmentation and mmdetection resize with OpenCV. OpenCV's bilinear filter does not antialias, and its fixed-point
arithmetic differs from Pillow's, so the pixels differ from those of `pixels.resize`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from focalnet_jax.data.pixels import numba_compiled

_ONE = 2048  # weight 1 in OpenCV's fixed point


def fitted_size(height: int, width: int, box: tuple[int, int]) -> tuple[int, int]:
    """Returns height and width of the largest image with a given aspect ratio that fits into `box`.

    Equals mmcv's `rescale_size`, except for sides that round to 0: here they are 1, mmcv raises an error.

    Args:
      height: height of the image before it is resized.
      width: width of the image.
      box: limits of the sides, in any order: the larger limits the longer side, the smaller the shorter side.
    """
    factor = min(max(box) / max(height, width), min(box) / min(height, width))
    return max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5))


@dataclass(frozen=True)
class Placement:
    """A resize, then a crop, then optionally a horizontal flip. Only the pixels of the crop are computed.

    Attributes:
      full: height and width of the whole resized image.
      top: first row of the crop in the resized image.
      left: first column of the crop.
      size: height and width of the crop, which is inside the resized image.
      mirrored: whether the crop is mirrored left to right.
    """

    full: tuple[int, int]
    top: int
    left: int
    size: tuple[int, int]
    mirrored: bool = False

    def image(self, image: np.ndarray, canvas: tuple[int, int] | None = None) -> np.ndarray:
        """Returns the crop of an image, resampled bilinearly.

        The pixels equal those of `cv2.resize(image, full[::-1], interpolation=cv2.INTER_LINEAR)`, then cropped and
        mirrored.

        Args:
          image: whole image before the resize, `[H, W, 3]` uint8.
          canvas: height and width of the result, which is 0 to the right of the crop and below it. By default, the
            result is only the crop.
        """
        height, width = self.size
        out = np.empty((*(canvas or self.size), 3), np.uint8)
        out[height:], out[:height, width:] = 0, 0
        if self.full == image.shape[:2]:
            part = image[self.top : self.top + height, self.left : self.left + width]
            out[:height, :width] = part[:, ::-1] if self.mirrored else part
            return out
        if image.shape[1] == 1:  # each output needs two neighbours
            image = np.repeat(image, 2, axis=1)
            columns = np.zeros(width, np.uint64), np.tile(np.uint32([[_ONE], [0]]), width)
        else:
            columns = _columns(image.shape[1], self.full[1], self.left, width)
        if self.mirrored:
            columns = tuple(np.ascontiguousarray(each[..., ::-1]) for each in columns)
        rows, weights = _between(image.shape[0], self.full[0], self.top, height)
        rows = np.stack([rows, rows + 1]).clip(0, image.shape[0] - 1)
        _resample(np.ascontiguousarray(image), rows, weights, *columns, out)
        return out

    def labels(self, labels: np.ndarray, canvas: tuple[int, int] | None = None, fill: int = 0) -> np.ndarray:
        """Returns the crop of a label map, resampled by nearest neighbour.

        The labels equal those of `cv2.resize(labels, full[::-1], interpolation=cv2.INTER_NEAREST)`, then cropped and
        mirrored.

        Args:
          labels: whole label map before the resize, `[H, W]` of integers.
          canvas: height and width of the result, as in `image`.
          fill: label to the right of the crop and below it.
        """
        out = np.full(canvas or self.size, fill, labels.dtype)
        gather(np.ascontiguousarray(labels), *self.nearest(*labels.shape), out)
        return out

    def nearest(self, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the rows and columns of a map of `height` x `width` labels that are nearest to those of the crop."""
        rows = _nearest(height, self.full[0], self.top, self.size[0])
        columns = _nearest(width, self.full[1], self.left, self.size[1])
        return rows, np.ascontiguousarray(columns[::-1]) if self.mirrored else columns


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns an image `[H, W, 3]` uint8 resized bilinearly to height and width `size`, see `Placement.image`."""
    return Placement(size, 0, 0, size).image(image)


def _between(size: int, full: int, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the two inputs between which each output lies along an axis, for outputs `first` to `first + count - 1`.

    Args:
      size: number of inputs.
      full: number of all outputs.
      first: first output.
      count: number of outputs.

    Returns:
      The index of the input before each output, `[count]` int64, from -1 to `size` - 1; and the weights of this input
      and of the next one in fixed point, `[2, count]` uint32.
    """
    scale = 1.0 / (full / size)  # rounded twice, like in OpenCV
    at = ((np.arange(first, first + count) + 0.5) * scale - 0.5).astype(np.float32)
    before = np.floor(at)
    share = at - before
    weights = np.rint(np.stack([np.float32(1) - share, share]) * np.float32(_ONE))
    return before.astype(np.int64), weights.astype(np.uint32)


def _columns(size: int, full: int, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the byte offset of the left input of each output in a row, `[count]` uint64, and the weights of both.

    The arguments are those of `_between`. At the border, where an output has only one neighbour, this neighbour has the
    weight 1. (Along a column, OpenCV repeats the neighbour instead.)
    """
    before, weights = _between(size, full, first, count)
    weights[:, before < 0] = [[_ONE], [0]]
    weights[:, before >= size - 1] = [[0], [_ONE]]
    return (3 * before.clip(0, size - 2)).astype(np.uint64), weights


def _nearest(size: int, full: int, first: int, count: int) -> np.ndarray:
    scale = 1.0 / (full / size)
    return np.minimum((np.arange(first, first + count) * scale).astype(np.int64), size - 1)


@numba_compiled
def _resample(image, rows, row_weights, offsets, weights, out):  # pragma: no cover - compiled
    """Interpolates `rows` `[2, h]` and the columns at byte `offsets` `[w]`; writes to the upper left of `out`."""
    width = offsets.size
    sums = np.empty((2, 3 * width), np.uint16)  # two rows of the image, resampled horizontally
    held = np.full(2, -1, np.int64)  # indices of the rows in `sums`; an output needs two consecutive rows
    next_red, next_green, next_blue = np.uint64(3), np.uint64(4), np.uint64(5)
    for y in range(rows.shape[1]):
        for k in range(2):
            row = rows[k, y]
            if held[row & 1] != row:
                held[row & 1] = row
                source, to = image[row].reshape(image.shape[1] * 3), sums[row & 1]
                for x in range(width):
                    at, a, b = offsets[x], weights[0, x], weights[1, x]
                    to[3 * x] = (source[at] * a + source[at + next_red] * b) >> 4
                    to[3 * x + 1] = (source[at + np.uint64(1)] * a + source[at + next_green] * b) >> 4
                    to[3 * x + 2] = (source[at + np.uint64(2)] * a + source[at + next_blue] * b) >> 4
        above, below = sums[rows[0, y] & 1], sums[rows[1, y] & 1]
        upper, lower, to = row_weights[0, y], row_weights[1, y], out[y].reshape(out.shape[1] * 3)
        for i in range(3 * width):
            first = np.uint16((upper * np.uint32(above[i])) >> np.uint32(16))
            second = np.uint16((lower * np.uint32(below[i])) >> np.uint32(16))
            to[i] = np.uint16(first + second + np.uint16(2)) >> np.uint16(2)


@numba_compiled
def gather(labels, rows, columns, out):  # pragma: no cover - compiled
    """Writes `labels[rows][:, columns]` of an array `labels` `[H, W]` to the upper left of `out`."""
    for y in range(rows.size):
        row, to = labels[rows[y]], out[y]
        for x in range(columns.size):
            to[x] = row[columns[x]]
