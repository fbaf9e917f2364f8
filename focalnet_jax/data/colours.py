"""Colour operations on an image `[H, W, 3]` uint8, with the same results as Pillow's ImageOps and ImageEnhance."""

from __future__ import annotations

import numpy as np

from focalnet_jax.data.pixels import numba_compiled

_LEVELS = np.arange(256)


@numba_compiled
def _looked_up(image, tables):  # pragma: no cover - compiled
    out = np.empty_like(image)
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            for c in range(3):
                out[y, x, c] = tables[c, image[y, x, c]]
    return out


@numba_compiled
def _histograms(image):  # pragma: no cover - compiled
    """Returns the histogram of each channel, `[3, 256]`."""
    counts = np.zeros((3, 256), np.int64)
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            for c in range(3):
                counts[c, image[y, x, c]] += 1
    return counts


@numba_compiled
def _grey(red, green, blue):  # pragma: no cover - compiled
    """Returns the luma of a pixel by ITU-R 601-2, in fixed point like in Pillow."""
    return (np.int32(red) * 19595 + np.int32(green) * 38470 + np.int32(blue) * 7471 + 0x8000) >> 16


@numba_compiled
def _mean_grey(image):  # pragma: no cover - compiled
    total = 0
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            total += _grey(image[y, x, 0], image[y, x, 1], image[y, x, 2])
    return total / (image.shape[0] * image.shape[1])


@numba_compiled
def _blended(start, end, factor):  # pragma: no cover - compiled
    """Interpolates or extrapolates between two float32 pixel values, and clips and truncates like Pillow's blend."""
    value = start + factor * (end - start)
    return np.uint8(np.int32(min(max(value, np.float32(0)), np.float32(255))))


# The two functions below loop over rows of scalars, not of RGB pixels, so that the compiler vectorizes them.


@numba_compiled
def _saturated(image, factor):  # pragma: no cover - compiled
    height, width = image.shape[0], image.shape[1] * 3
    out = np.empty((height, width), np.uint8)
    grey = np.empty(width, np.float32)  # grey level of every pixel, repeated for 3 channels
    for y in range(height):
        row, to = image[y].reshape(width), out[y]
        for i in range(0, width, 3):
            grey[i] = grey[i + 1] = grey[i + 2] = np.float32(_grey(row[i], row[i + 1], row[i + 2]))
        for i in range(width):
            to[i] = _blended(grey[i], np.float32(row[i]), factor)
    return out.reshape(image.shape)


@numba_compiled
def _sharpened(image, factor):  # pragma: no cover - compiled
    height, width = image.shape[0], image.shape[1] * 3
    source = image.reshape(height, width)
    out = source.copy()  # border pixels lack neighbours and are unchanged
    if width < 9:
        return out.reshape(image.shape)
    sums = np.empty(width, np.float32)  # sums of three pixels in a column
    for y in range(1, height - 1):
        above, row, below = source[y - 1], source[y], source[y + 1]
        for i in range(width):
            sums[i] = np.float32(above[i]) + np.float32(row[i]) + np.float32(below[i])
        left, middle, right, centre, to = sums[:-6], sums[3:-3], sums[6:], row[3:-3], out[y, 3:-3]
        for i in range(width - 6):
            level = np.float32(centre[i])
            # Pillow's SMOOTH: a weighted sum divided by 13 and rounded to nearest, floor((sum + 6.5) / 13). Sums are
            # whole numbers, so adding another 0.25 does not change the exact result, but keeps it away from the
            # rounding boundary, where float32 would be inexact.
            total = left[i] + middle[i] + right[i] + np.float32(4) * level
            smooth = np.floor((total + np.float32(6.75)) * np.float32(1 / 13))
            to[i] = _blended(smooth, level, factor)
    return out.reshape(image.shape)


def look_up(image: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Returns the image with each pixel value v replaced by `table[v]`, clipped to [0, 255].

    Args:
      image: `[H, W, 3]` uint8.
      table: `[256]` for all channels, or `[3, 256]` with a table per channel.
    """
    tables = np.broadcast_to(np.clip(table, 0, 255).astype(np.uint8), (3, 256))
    return _looked_up(image, np.ascontiguousarray(tables))


def invert(image: np.ndarray) -> np.ndarray:
    """Returns the negative of an image."""
    return 255 - image


def posterize(image: np.ndarray, bits: int) -> np.ndarray:
    """Keeps only the `bits` highest bits of every pixel value. With 8 or more bits, the image is unchanged."""
    return image if bits >= 8 else image & np.uint8((0xFF << (8 - bits)) & 0xFF)


def solarize(image: np.ndarray, threshold: int) -> np.ndarray:
    """Inverts pixel values of `threshold` and above."""
    return look_up(image, np.where(threshold > _LEVELS, _LEVELS, 255 - _LEVELS))


def solarize_add(image: np.ndarray, add: int) -> np.ndarray:
    """Adds `add` to pixel values below 128, and clips to [0, 255]."""
    return look_up(image, np.where(_LEVELS < 128, _LEVELS + add, _LEVELS))


def autocontrast(image: np.ndarray) -> np.ndarray:
    """Stretches the values of every channel to the range [0, 255]. Uniform channels are unchanged."""
    tables = np.tile(_LEVELS, (3, 1))
    for table, counts in zip(tables, _histograms(image), strict=True):
        low, high = np.flatnonzero(counts)[[0, -1]]
        if high > low:
            scale = 255.0 / (high - low)
            table[:] = (_LEVELS * scale + -low * scale).astype(int)
    return look_up(image, tables)


def equalize(image: np.ndarray) -> np.ndarray:
    """Equalizes the histogram of every channel."""
    tables = np.tile(_LEVELS, (3, 1))
    for table, counts in zip(tables, _histograms(image), strict=True):
        step = (counts.sum() - counts[np.flatnonzero(counts)[-1]]) // 255
        if step:
            table[:] = (step // 2 + np.cumsum(counts) - counts) // step
    return look_up(image, tables)


def brightness(image: np.ndarray, factor: float) -> np.ndarray:
    """Blends the image with black. Factor 0 gives black, 1 the image, and larger factors a brighter image."""
    return look_up(image, _blend_table(0, factor))


def contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """Blends the image with its mean grey. Factor 0 gives uniform grey, 1 the image, a larger factor more contrast."""
    return look_up(image, _blend_table(int(_mean_grey(image) + 0.5), factor))


def saturation(image: np.ndarray, factor: float) -> np.ndarray:
    """Blends the image with its grey version, like Pillow's Color. Factor 0 gives the grey version, 1 the image."""
    return _saturated(image, np.float32(factor))


def sharpness(image: np.ndarray, factor: float) -> np.ndarray:
    """Blends the image with its smoothed version. Factor 0 gives the smoothed version, 1 the image."""
    return _sharpened(image, np.float32(factor))


def _blend_table(start: int, factor: float) -> np.ndarray:
    return np.trunc(np.float32(start) + np.float32(factor) * (_LEVELS - start).astype(np.float32))
