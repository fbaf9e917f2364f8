"""Distorts the colours of images `[H, W, 3]` uint8, with the same pixels as mmsegmentation's PhotoMetricDistortion."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from focalnet_jax.data.pixels import numba_compiled

_HUES = 180  # number of hues in OpenCV, one per 2 degrees
_LANES = 32  # number of pixels that OpenCV converts together on most CPUs
_LEVELS = np.arange(256)

# Constants of the compiled functions. With 32 bits in all arithmetic, the compiler vectorizes it.
_I0, _I1, _I2, _I4, _I5, _I12, _I180, _I2048 = np.array([0, 1, 2, 4, 5, 12, _HUES, 2048], np.int32)
_F1, _F255 = np.float32(1), np.float32(255)
_F1_255, _F6_180 = np.float32(1) / np.float32(255), np.float32(6) / np.float32(_HUES)
_S_SCALE, _H_SCALE = np.float32(255 << 12), np.float32((_HUES << 12) / 6)  # with 12 fractional bits


@dataclass(frozen=True)
class Distortion:
    """A change of colours. A change whose value is None is not made.

    Attributes:
      brightness: number added to all levels.
      contrast: factor of all levels.
      contrast_first: whether contrast is changed before saturation and hue, instead of after them.
      saturation: factor of the saturation.
      hue: angle added to the hue, in units of 2 degrees.
    """

    brightness: float | None = None
    contrast: float | None = None
    contrast_first: bool = True
    saturation: float | None = None
    hue: int | None = None

    def apply(self, image: np.ndarray, size: tuple[int, int] | None = None) -> None:
        """Changes an image in place: the upper left part of height and width `size`, by default all of it."""
        height, width = size or image.shape[:2]
        before = [] if self.brightness is None else [_table(1, self.brightness)]
        after = []
        if self.contrast is not None:
            (before if self.contrast_first else after).append(_table(self.contrast, 0))
        if self.saturation is None and self.hue is None:
            if before or after:
                _look_up(image, height, width, _chained(before + after))
            return
        factor = np.float32(1 if self.saturation is None else self.saturation)
        angle = np.int32(0 if self.hue is None else self.hue % _HUES)
        saturate, turn = self.saturation is not None, self.hue is not None
        _turn(image, height, width, _chained(before), _chained(after), saturate, factor, turn, angle)


@dataclass(frozen=True)
class Photometric:
    """A distribution of `Distortion`: each change is made with probability 0.5; its value is drawn uniformly.

    Attributes:
      brightness: largest number that is added to or subtracted from the levels.
      contrast: smallest and largest factor.
      saturation: smallest and largest factor.
      hue: largest angle, in units of 2 degrees; angles are at least `-hue` and less than `hue`.
    """

    brightness: float = 32.0
    contrast: tuple[float, float] = (0.5, 1.5)
    saturation: tuple[float, float] = (0.5, 1.5)
    hue: int = 18

    def draw(self, rng: np.random.Generator) -> Distortion:
        """Draws a distortion."""
        brighten, contrast, contrast_first, saturate, turn = rng.random(5) < 0.5
        return Distortion(
            rng.uniform(-self.brightness, self.brightness) if brighten else None,
            rng.uniform(*self.contrast) if contrast else None,
            bool(contrast_first),
            rng.uniform(*self.saturation) if saturate else None,
            int(rng.integers(-self.hue, self.hue)) if turn else None,
        )


def _table(factor: float, offset: float) -> np.ndarray:
    """Returns `factor * level + offset` for all levels, `[256]` uint8, clipped and truncated."""
    return np.clip(_LEVELS.astype(np.float32) * np.float32(factor) + np.float32(offset), 0, 255).astype(np.uint8)


def _chained(tables: list[np.ndarray]) -> np.ndarray:
    result = _LEVELS.astype(np.uint8)
    for table in tables:
        result = table[result]
    return result


@numba_compiled
def _look_up(image, height, width, table):  # pragma: no cover - compiled
    for y in range(height):
        row = image[y].reshape(image.shape[1] * 3)
        for i in range(3 * width):
            row[i] = table[row[i]]


@numba_compiled
def _course(sector, top, down, bottom, up):  # pragma: no cover - compiled
    """Returns the red level in a sector of the hue. Green and blue have this level two and four sectors later."""
    if (sector == _I0) | (sector == _I5):
        return top
    if sector == _I1:
        return down
    return up if sector == _I4 else bottom


@numba_compiled
def _shifted(red, green, blue, factor, angle, rounded):  # pragma: no cover - compiled
    """Converts levels `[n]` int32 to hue, saturation and value and back, in place, like OpenCV.

    The saturation is multiplied by `factor`, and `angle` is added to the hue. `rounded` rounds the resulting levels,
    instead of truncating them.
    """
    for x in range(red.size):
        r, g, b = red[x], green[x], blue[x]
        v = max(max(r, g), b)
        span = v - min(min(r, g), b)
        # OpenCV's RGB2HSV, which reads the rounded quotients from tables.
        s = (span * np.int32(np.rint(_S_SCALE / np.float32(max(v, _I1)))) + _I2048) >> _I12
        h = g - b if v == r else (b - r + _I2 * span if v == g else r - g + _I4 * span)
        h = (h * np.int32(np.rint(_H_SCALE / np.float32(max(span, _I1)))) + _I2048) >> _I12
        h = (h + _I180 if h < _I0 else h) + angle
        h = h - _I180 if h >= _I180 else h
        s = np.int32(min(np.float32(s) * factor, _F255))
        # OpenCV's HSV2RGB. In OpenCV, the compiler fuses 1 - a * b, so that only the result is rounded. Double
        # precision that is rounded at the end gives the same result.
        value, share, place = np.float32(v) * _F1_255, np.float32(s) * _F1_255, np.float32(h) * _F6_180
        sector = np.int32(place)
        part = place - np.float32(sector)
        highest, lowest = value * _F255, value * (_F1 - share) * _F255
        falling = value * np.float32(1 - np.float64(share) * np.float64(part)) * _F255
        rising = value * np.float32(1 - np.float64(share) * np.float64(_F1 - part)) * _F255
        if rounded:
            highest, lowest, falling, rising = np.rint(highest), np.rint(lowest), np.rint(falling), np.rint(rising)
        top, bottom, down, up = np.int32(highest), np.int32(lowest), np.int32(falling), np.int32(rising)
        red[x] = _course(sector, top, down, bottom, up)
        green[x] = _course(sector - _I2 if sector >= _I2 else sector + _I4, top, down, bottom, up)
        blue[x] = _course(sector - _I4 if sector >= _I4 else sector + _I2, top, down, bottom, up)


@numba_compiled
def _turn(image, height, width, before, after, saturate, factor, turn, angle):  # pragma: no cover - compiled
    """Maps levels by the table `before`, changes saturation, then hue, and maps the result by `after`, in place."""
    red, green, blue = np.empty(width, np.int32), np.empty(width, np.int32), np.empty(width, np.int32)
    whole = width // _LANES * _LANES  # OpenCV truncates the levels of whole groups of pixels, but rounds the others
    for y in range(height):
        row = image[y].reshape(image.shape[1] * 3)
        for x in range(width):
            red[x], green[x], blue[x] = before[row[3 * x]], before[row[3 * x + 1]], before[row[3 * x + 2]]
        if saturate:
            _shifted(red[:whole], green[:whole], blue[:whole], factor, _I0, False)
            _shifted(red[whole:], green[whole:], blue[whole:], factor, _I0, True)
        if turn:
            _shifted(red[:whole], green[:whole], blue[:whole], _F1, angle, False)
            _shifted(red[whole:], green[whole:], blue[whole:], _F1, angle, True)
        for x in range(width):
            row[3 * x], row[3 * x + 1], row[3 * x + 2] = after[red[x]], after[green[x]], after[blue[x]]
