"""Loops over the pixels of one picture, `[H, W, 3]` uint8, compiled by numba; they run without Python's lock.

They compute what Pillow's C code computes, to the bit for resampling and within a grey level for the rest, in a
fraction of the time: Pillow resamples and transforms a pixel at a time, these loops a row at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from focalnet_jax.data.preprocessing import FILTERS

_BITS = 22  # of the fixed-point weights: Pillow's 32 - 8 - 2
_HALF = 1 << (_BITS - 1)


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` compiled when it is first called; kept on disk for the next process where that can be written."""
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # no folder to keep it in
        return numba.njit(nogil=True)(function)


_HAMMING = float(np.float32(0.54)), float(np.float32(0.46))  # which Pillow writes in single precision


@compiled
def _sinc(x):  # pragma: no cover - compiled
    return 1.0 if x == 0.0 else math.sin(x * math.pi) / (x * math.pi)


@compiled
def _filter(kind, x):  # pragma: no cover - compiled
    """The height of a filter at `x`: Pillow's Resample.c."""
    if kind == 4:
        return 1.0 if -0.5 < x <= 0.5 else 0.0
    x = abs(x)
    if kind == 3:  # bicubic with a = -0.5
        if x < 1.0:
            return (1.5 * x - 2.5) * x * x + 1.0
        return (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5 if x < 2.0 else 0.0
    if kind == 2:
        return 1.0 - x if x < 1.0 else 0.0
    if kind == 1:
        return _sinc(x) * _sinc(x / 3.0) if x < 3.0 else 0.0
    if x == 0.0:
        return 1.0
    return _sinc(x) * (_HAMMING[0] + _HAMMING[1] * math.cos(x * math.pi)) if x < 1.0 else 0.0


@compiled
def _weights(size, full, first, count, kind):  # pragma: no cover - compiled
    """Weights of a filter, widened where the picture shrinks, of outputs `first` to `first + count` of `full`.

    Returns the first input of every output, how many it has, and their weights `[count, taps]` in fixed point.
    """
    scale = size / full
    widening = max(scale, 1.0)
    radius = 3.0 if kind == 1 else 2.0 if kind == 3 else 0.5 if kind == 4 else 1.0
    support = radius * widening
    taps = math.ceil(support) * 2 + 1
    starts, counts = np.empty(count, np.int32), np.empty(count, np.int32)
    weights = np.zeros((count, taps), np.int32)
    row = np.empty(taps, np.float64)
    for i in range(count):
        centre = (first + i + 0.5) * scale
        low = int(max(centre - support + 0.5, 0.0))
        high = int(min(centre + support + 0.5, size))
        total = 0.0
        for j in range(high - low):
            row[j] = _filter(kind, (j + low - centre + 0.5) * (1.0 / widening))
            total += row[j]
        for j in range(high - low):
            value = row[j] / total * (1 << _BITS)
            weights[i, j] = int(value - 0.5) if value < 0 else int(value + 0.5)
        starts[i], counts[i] = low, high - low
    return starts, counts, weights


@compiled
def _resample_rows(rows, full, first, count, kind):  # pragma: no cover - compiled
    """Rows `first` to `first + count` of `rows` `[h, n]` resampled to `full` of them: `[count, n]`."""
    starts, counts, weights = _weights(rows.shape[0], full, first, count, kind)
    width = rows.shape[1]
    out = np.empty((count, width), np.uint8)
    sums = np.empty(width, np.int32)
    for i in range(count):
        sums[:] = _HALF
        start, t = starts[i], 0
        while t + 4 <= counts[i]:  # four at a time, so that the sums are seldom loaded and stored
            a, b, c, d = weights[i, t], weights[i, t + 1], weights[i, t + 2], weights[i, t + 3]
            p, q, r, s = rows[start + t], rows[start + t + 1], rows[start + t + 2], rows[start + t + 3]
            for x in range(width):
                sums[x] += a * np.int32(p[x]) + b * np.int32(q[x]) + c * np.int32(r[x]) + d * np.int32(s[x])
            t += 4
        for last in range(t, counts[i]):
            weight, row = weights[i, last], rows[start + last]
            for x in range(width):
                sums[x] += weight * np.int32(row[x])
        for x in range(width):
            out[i, x] = min(max(sums[x] >> _BITS, 0), 255)
    return out


@compiled
def _transposed(image, left, top, width, height, mirrored):  # pragma: no cover - compiled
    """A part of a picture `[H, W, 3]` with rows and columns exchanged, `[width, height * 3]`.

    `mirrored` takes the rows from the last to the first.
    """
    out = np.empty((width, height * 3), np.uint8)
    for y in range(height):
        row = image[top + (height - 1 - y if mirrored else y)]
        for x in range(width):
            for c in range(3):
                out[x, 3 * y + c] = row[left + x, c]
    return out


@compiled
def _nearest(size, full, first, count):  # pragma: no cover - compiled
    """Which inputs the outputs `first` to `first + count` of `full` are: added up, for Pillow's rounding errors."""
    step = size / full
    at = step * 0.5
    inputs = np.empty(count, np.int64)
    for i in range(first + count):
        if i >= first:
            inputs[i - first] = int(at)
        at += step
    return inputs


@compiled
def _resize(image, box, full, part, mirrored, kind):  # pragma: no cover - compiled
    left, top, right, bottom = box
    x, y, width, height = part
    columns = _resample_rows(_transposed(image, left, top, right - left, bottom - top, False), full[0], x, width, kind)
    rows = _transposed(columns.reshape(width, bottom - top, 3), 0, 0, bottom - top, width, mirrored)
    return _resample_rows(rows, full[1], y, height, kind).reshape(height, width, 3)


def resize(
    image: np.ndarray,
    box: tuple[int, int, int, int],
    full: tuple[int, int],
    part: tuple[int, int, int, int],
    *,
    mirrored: bool = False,
    interpolation: str = "bicubic",
) -> np.ndarray:
    """Returns a part of Pillow's `image.crop(box).resize(full, interpolation)`, to the bit; only that part is computed.

    Rows are resampled before columns, as Pillow did up to version 12; 13 sometimes begins with the columns, and differs
    by a few levels then.

    Args:
      image: `[H, W, 3]` uint8.
      box: left, top, right, bottom within the picture.
      full: width and height of the whole result.
      part: left, top, width and height of the part of it that is wanted.
      mirrored: whether the part is mirrored left to right.
      interpolation: one of `FILTERS`.

    Returns:
      `[height, width, 3]` uint8.
    """
    if interpolation != "nearest":
        return _resize(image, box, full, part, mirrored, FILTERS[interpolation])
    left, top, right, bottom = box
    x, y, width, height = part
    columns, rows = left + _nearest(right - left, full[0], x, width), top + _nearest(bottom - top, full[1], y, height)
    return image[rows[:, None], columns[::-1] if mirrored else columns]


@compiled
def _cubic(a, b, c, d, t):  # pragma: no cover - compiled
    """The cubic through four values at -1, 0, 1, 2 with Pillow's a = -1, at `t` in [0, 1)."""
    return b + t * (c - a + t * (2 * (a - b) + c - d + t * (b - a + d - c)))


@compiled
def _to_byte(value):  # pragma: no cover - compiled
    """Cut, not rounded, as Pillow's transforms do."""
    return np.uint8(min(max(np.int32(value), np.int32(0)), np.int32(255)))


@compiled
def _shift_rows(image, offsets, fill):  # pragma: no cover - compiled
    height, width = image.shape[:2]
    out = np.empty((height, width * 3), np.uint8)
    padded = np.empty((width + 4) * 3, np.float32)  # the row's ends repeated twice
    for y in range(height):
        whole = math.floor(offsets[y])
        t = np.float32(offsets[y] - whole)
        # Outputs whose centre comes from inside the row.
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
        # Slices with plain indices, which the compiler turns into vector instructions.
        start, count = 3 * (first + whole + 1), 3 * (end - first)
        before, at = padded[start : start + count], padded[start + 3 : start + 3 + count]
        after, beyond = padded[start + 6 : start + 6 + count], padded[start + 9 : start + 9 + count]
        row = out[y, 3 * first : 3 * end]
        for i in range(count):
            row[i] = _to_byte(_cubic(before[i], at[i], after[i], beyond[i], t))
    return out.reshape(height, width, 3)


@compiled
def _shift_columns(image, offsets, fill):  # pragma: no cover - compiled
    height, width = image.shape[:2]
    columns = _transposed(image, 0, 0, width, height, False).reshape(width, height, 3)
    moved = _shift_rows(columns, offsets, fill)
    return _transposed(moved, 0, 0, height, width, False).reshape(height, width, 3)


def shift_rows(image: np.ndarray, offsets: np.ndarray, fill: tuple[int, int, int]) -> np.ndarray:
    """Every row read `offsets` `[H]` pixels further right, as Pillow's bicubic `transform`; `fill` where none is."""
    return _shift_rows(image, offsets, fill)


def shift_columns(image: np.ndarray, offsets: np.ndarray, fill: tuple[int, int, int]) -> np.ndarray:
    """Every column read `offsets` `[W]` pixels further down; see `shift_rows`."""
    return _shift_columns(image, offsets, fill)


@compiled
def _cubic_weights(t):  # pragma: no cover - compiled
    """The weights `_cubic` gives the four values."""
    return (
        t * (t * (2 - t) - 1),
        1 + t * t * (t - 2),
        t * (1 + t * (1 - t)),
        t * t * (t - 1),
    )


@compiled
def _padded(image):  # pragma: no cover - compiled
    """`[(H + 4) * (W + 4) * 3]`: the picture with its ends repeated twice."""
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


@compiled
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
        for x in range(width):  # where every pixel of the row comes from, and the weights there
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
                total = np.float32(1e-4)  # cut below, so what rounding leaves under a whole number must not count
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
    """Pillow's bicubic `rotate`: counter-clockwise about the centre, the size kept, `fill` where nothing was."""
    angle = math.radians(-degrees)
    return _rotate(image, round(math.cos(angle), 15), round(math.sin(angle), 15), fill)
