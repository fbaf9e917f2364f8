"""Colours in which classes are drawn."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import Any

import numpy as np

_GOLDEN = 0.618034  # step between the hues of consecutive classes, as a fraction of the colour circle


def class_colours(count: int, palette: np.ndarray | Sequence[Any] | None = None) -> np.ndarray:
    """Returns the colours of K classes `[K, 3]` uint8: those of `palette`, then colours that differ in hue.

    A palette of more than K colours is ignored.
    """
    hues = (np.arange(count) * _GOLDEN) % 1
    colours = np.array([[round(255 * part) for part in colorsys.hsv_to_rgb(hue, 0.75, 0.95)] for hue in hues], np.uint8)
    if palette is not None and 0 < len(palette) <= count:
        colours[: len(palette)] = palette
    return colours
