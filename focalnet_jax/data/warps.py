"""Shears, translates and rotates images `[H, W, 3]` uint8, like Pillow's bicubic transforms.

Pixel values differ from Pillow's by at most 1.
"""

from __future__ import annotations

import math

import numpy as np

from focalnet_jax.data.pixels import numba_compiled, transposed


@numba_compiled
def _cubic(a, b, c, d, t):  # pragma: no cover - compiled
    """Interpolates at `t` in [0, 1) between values at -1, 0, 1 and 2, by cubic convolution with a = -1, like Pillow."""
    return b + t * (c - a + t * (2 * (a - b) + c - d + t * (b - a + d - c)))


@numba_compiled
def _to_byte(value):  # pragma: no cover - compiled
    """Converts a value to uint8, with truncation and clipping like in Pillow's transforms."""
    return np.uint8(min(max(np.int32(value), np.int32(0)), np.int32(255)))


@numba_compiled
def _shift_rows(image, offsets, fill):  # pragma: no cover - compiled
    height, width = image.shape[:2]
    out = np.empty((height, width * 3), np.uint8)
    padded = np.empty((width + 4) * 3, np.float32)  # the row, with its first and last pixel repeated twice
    for y in range(height):
        whole = math.floor(offsets[y])
        t = np.float32(offsets[y] - whole)
        # Range of the outputs whose centres map into the row.
        first = min(max(math.ceil(-0.5 - offsets[y]), 0), width)
        end = min(max(math.ceil(width - 0.5 - offsets[y]), first), width)
        for i in range(3 * first):
            out[y, i] = fill[i % 3]
        for i in range(3 * end, 3 * width):
            out[y, i] = fill[i % 3]
        if first == end:
            continue
        source = image[y].reshape(3 * width)
        for i in range(3 * width):
            padded[6 + i] = np.float32(source[i])
        for i in range(3):
            padded[i] = padded[3 + i] = image[y, 0, i]
            padded[3 * width + 6 + i] = padded[3 * width + 9 + i] = image[y, width - 1, i]
        # Slices that are indexed only by i, so that the compiler vectorizes the loop.
        start, count = 3 * (first + whole + 1), 3 * (end - first)
        before, at = padded[start : start + count], padded[start + 3 : start + 3 + count]
        after, beyond = padded[start + 6 : start + 6 + count], padded[start + 9 : start + 9 + count]
        row = out[y, 3 * first : 3 * end]
        for i in range(count):
            row[i] = _to_byte(_cubic(before[i], at[i], after[i], beyond[i], t))
    return out.reshape(height, width, 3)


@numba_compiled
def _shift_columns(image, offsets, fill):  # pragma: no cover - compiled
    height, width = image.shape[:2]
    columns = transposed(image, 0, 0, width, height, False).reshape(width, height, 3)
    moved = _shift_rows(columns, offsets, fill)
    return transposed(moved, 0, 0, height, width, False).reshape(height, width, 3)


def shift_rows(image: np.ndarray, offsets: np.ndarray, fill: tuple[int, int, int]) -> np.ndarray:
    """Shifts each row to the left, like Pillow's bicubic `transform`.

    Args:
      image: `[H, W, 3]` uint8.
      offsets: number of pixels by which each row is shifted to the left, `[H]`; negative numbers shift to the right.
      fill: RGB values, 0 to 255, of pixels from outside the image.
    """
    return _shift_rows(image, offsets, fill)


def shift_columns(image: np.ndarray, offsets: np.ndarray, fill: tuple[int, int, int]) -> np.ndarray:
    """Shifts each column up by `offsets` `[W]` pixels, see `shift_rows`."""
    return _shift_columns(image, offsets, fill)


@numba_compiled
def _cubic_weights(t):  # pragma: no cover - compiled
    """Returns the weights that `_cubic` gives to the four values."""
    return (
        t * (t * (2 - t) - 1),
        1 + t * t * (t - 2),
        t * (1 + t * (1 - t)),
        t * t * (t - 1),
    )


@numba_compiled
def _padded(image):  # pragma: no cover - compiled
    """Returns the image, with its border pixels repeated twice, as float32 `[(H + 4) * (W + 4) * 3]`."""
    height, width = image.shape[:2]
    out = np.empty((height + 4, 3 * (width + 4)), np.float32)
    for y in range(height + 4):
        row = image[min(max(y - 2, 0), height - 1)].reshape(3 * width)
        to = out[y]
        for i in range(3 * width):
            to[6 + i] = np.float32(row[i])
        for c in range(3):
            to[c] = to[3 + c] = row[c]
            to[3 * width + 6 + c] = to[3 * width + 9 + c] = row[3 * width - 3 + c]
    return out.reshape(out.size)


@numba_compiled
def _rotate(image, cosine, sine, fill):  # pragma: no cover - compiled
    height, width = image.shape[:2]
    out = np.empty_like(image)
    stride = np.uint64(3 * (width + 4))
    values = _padded(image)
    shift_x = width / 2.0 - cosine * width / 2.0 - sine * height / 2.0
    shift_y = height / 2.0 + sine * width / 2.0 - cosine * height / 2.0
    starts, inside = np.empty(width, np.uint64), np.empty(width, np.bool_)
    across, down = np.empty((4, width), np.float32), np.empty((4, width), np.float32)
    for y in range(height):
        for x in range(width):  # source position and weights of every pixel of the row
            from_x = cosine * (x + 0.5) + sine * (y + 0.5) + shift_x
            from_y = -sine * (x + 0.5) + cosine * (y + 0.5) + shift_y
            inside[x] = (from_x >= 0) & (from_x < width) & (from_y >= 0) & (from_y < height)
            column, row = math.floor(from_x - 0.5), math.floor(from_y - 0.5)
            across[0, x], across[1, x], across[2, x], across[3, x] = _cubic_weights(np.float32(from_x - 0.5 - column))
            down[0, x], down[1, x], down[2, x], down[3, x] = _cubic_weights(np.float32(from_y - 0.5 - row))
            starts[x] = np.uint64(int(row + 1) * int(stride) + 3 * int(column + 1)) if inside[x] else np.uint64(0)
        for x in range(width):
            if not inside[x]:
                for c in range(3):
                    out[y, x, c] = fill[c]
                continue
            a0, a1, a2, a3 = across[0, x], across[1, x], across[2, x], across[3, x]
            for c in range(3):
                total = np.float32(1e-4)  # keeps rounding errors from lowering whole numbers by 1
                i = starts[x] + np.uint64(c)
                for k in range(4):
                    line = (
                        a0 * values[i]
                        + a1 * values[i + np.uint64(3)]
                        + a2 * values[i + np.uint64(6)]
                        + a3 * values[i + np.uint64(9)]
                    )
                    total += down[k, x] * line
                    i += stride
                out[y, x, c] = _to_byte(total)
    return out


def rotate(image: np.ndarray, degrees: float, fill: tuple[int, int, int]) -> np.ndarray:
    """Rotates the image counter-clockwise about its centre, like Pillow's bicubic `rotate`.

    Args:
      image: `[H, W, 3]` uint8; the result has the same size.
      degrees: angle of the rotation.
      fill: RGB values, 0 to 255, of pixels from outside the image.
    """
    angle = math.radians(-degrees)
    return _rotate(image, round(math.cos(angle), 15), round(math.sin(angle), 15), fill)
