"""Colours in which the classes of a source are drawn."""

from __future__ import annotations

import numpy as np

from focalnet_jax.data.palette import class_colours
from focalnet_jax.tasks.segmentation.sources import PairSource


def colours_of(source: PairSource) -> np.ndarray:
    """Returns the colours of a source's classes `[K, 3]` uint8: its palette, or else those of `class_colours`."""
    return class_colours(len(source.class_names), source.palette)
