"""Distorts the colours of images `[H, W, 3]` uint8, with the same pixels as mmsegmentation's PhotoMetricDistortion."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from focalnet_jax.data.pixels import numba_compiled

_HUES = 180  # number of hues in OpenCV, whose unit is 2 degrees
_LEVELS = np.arange(256)
_LANES = 32  # number of pixels that OpenCV converts together on most CPUs


@dataclass(frozen=True)
class Distortion:
    """A change of colours. Parts that are None are left out.

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
        """Changes an image in place; if `size` is given, only the upper left part of this height and width."""
        height, width = size or image.shape[:2]
        before = [] if self.brightness is None else [_table(1, self.brightness)]
        after = []
        if self.contrast is not None:
            (before if self.contrast_first else after).append(_table(self.contrast, 0))
        if self.saturation is None and self.hue is None:
            if before or after:
                _look_up(image, height, width, _chained(before + after))
            return
        saturation = _table(1 if self.saturation is None else self.saturation, 0)
        hue = 0 if self.hue is None else self.hue % _HUES
        _turn(
            image, height, width, _chained(before), _chained(after), self.saturation is not None, saturation,
            self.hue is not None, hue, *_divisors(), _shares()
        )  # fmt: skip


@dataclass(frozen=True)
class Photometric:
    """A distribution of `Distortion`: each part occurs with probability 0.5, and has a uniform distribution.

    Attributes:
      brightness: largest number that is added or subtracted.
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


@cache
def _divisors() -> tuple[np.ndarray, np.ndarray]:
    """Returns OpenCV's factors of a saturation and of a hue by their divisor, with 12 fractional bits, `[256]` int32."""
    divisor = np.maximum(_LEVELS, 1)
    saturation, hue = np.rint((255 << 12) / divisor), np.rint((_HUES << 12) / (6 * divisor))
    return tuple(np.where(_LEVELS > 0, table, 0).astype(np.int32) for table in (saturation, hue))


@cache
def _shares() -> np.ndarray:
    """Returns red, green and blue of a hue and saturation as shares of the value, `[180, 256, 3]` float32.

    They have OpenCV's rounding errors. In `1 - a * b`, only the result is rounded, because compilers use a fused
    multiply-add; double precision, rounded at the end, gives the same result.
    """
    one = np.float32(1)
    hue = (np.arange(_HUES, dtype=np.float32) * (np.float32(6) / np.float32(_HUES)))[:, None]
    saturation = np.arange(256, dtype=np.float32) * (one / np.float32(255))
    sector = np.trunc(hue)
    fraction = hue - sector
    falling, rising = (
        (1 - saturation.astype(np.float64) * part.astype(np.float64)).astype(np.float32)
        for part in (fraction, one - fraction)
    )
    highest, lowest = np.ones_like(falling), np.broadcast_to(one - saturation, falling.shape)
    # By sector: red from its highest level to its lowest and back; green and blue follow two and four sectors later.
    course = np.stack([highest, falling, lowest, lowest, rising, highest])
    sectors = (sector.astype(int) - [0, 2, 4]) % 6  # [180, 3]
    return np.ascontiguousarray(course[sectors, np.arange(_HUES)[:, None]].transpose(0, 2, 1))


@numba_compiled
def _look_up(image, height, width, table):  # pragma: no cover - compiled
    for y in range(height):
        row = image[y].reshape(image.shape[1] * 3)
        for i in range(3 * width):
            row[i] = table[row[i]]


@numba_compiled
def _to_hsv(r, g, b, by_value, by_range):  # pragma: no cover - compiled
    """Returns hue, saturation and value of levels, like OpenCV's RGB2HSV."""
    red, green, blue = np.int32(r), np.int32(g), np.int32(b)
    value = max(red, green, blue)
    span = value - min(red, green, blue)
    if value == red:
        hue = green - blue
    elif value == green:
        hue = blue - red + 2 * span
    else:
        hue = red - green + 4 * span
    hue = (hue * by_range[span] + 2048) >> 12
    return hue + _HUES if hue < 0 else hue, (span * by_value[value] + 2048) >> 12, value


@numba_compiled
def _to_rgb(shares, value, rounded):  # pragma: no cover - compiled
    """Returns the levels of a colour, like OpenCV's HSV2RGB."""
    fraction, most = np.float32(value) * np.float32(1 / 255), np.float32(255)
    red, green, blue = fraction * shares[0] * most, fraction * shares[1] * most, fraction * shares[2] * most
    if rounded:
        red, green, blue = np.rint(red), np.rint(green), np.rint(blue)
    return np.uint8(red), np.uint8(green), np.uint8(blue)


@numba_compiled
def _turn(
    image, height, width, before, after, saturate, saturations, turn, angle, by_value, by_range, shares
):  # pragma: no cover - compiled
    """Looks levels up in `before`, changes saturation, then hue, and looks the resulting levels up in `after`."""
    # OpenCV truncates levels where it converts many pixels together, and rounds them at the end of a row.
    together = width // _LANES * _LANES
    for y in range(height):
        for x in range(width):
            r, g, b = before[image[y, x, 0]], before[image[y, x, 1]], before[image[y, x, 2]]
            if saturate:
                hue, saturation, value = _to_hsv(r, g, b, by_value, by_range)
                r, g, b = _to_rgb(shares[hue, saturations[saturation]], value, x >= together)
            if turn:
                hue, saturation, value = _to_hsv(r, g, b, by_value, by_range)
                hue += angle
                r, g, b = _to_rgb(shares[hue - _HUES if hue >= _HUES else hue, saturation], value, x >= together)
            image[y, x, 0], image[y, x, 1], image[y, x, 2] = after[r], after[g], after[b]
