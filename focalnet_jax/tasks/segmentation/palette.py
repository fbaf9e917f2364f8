"""Colours in which the classes of a source are drawn."""

from __future__ import annotations

import colorsys

import numpy as np

from focalnet_jax.tasks.segmentation.sources import PairSource

_GOLDEN = 0.618034  # fraction of the colour circle between two classes, so that neighbours differ


def colours_of(source: PairSource) -> np.ndarray:
    """Returns the colours of the classes `[K, 3]` uint8: the source's palette, else colours of equal strength."""
    if source.palette is not None:
        return np.asarray(source.palette, np.uint8)
    hues = (np.arange(len(source.class_names)) * _GOLDEN) % 1
    return np.array([[round(255 * part) for part in colorsys.hsv_to_rgb(hue, 0.75, 0.95)] for hue in hues], np.uint8)
