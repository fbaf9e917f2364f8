"""Cuts large pictures into tiles."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

Tile = tuple[int, int, int, int]  # first row, first column, height and width in pixels

LEAST_SHARE = 0.4  # an object of which a smaller share is inside a tile is marked as crowd


def tiles(height: int, width: int, side: int) -> list[Tile]:
    """Returns tiles of about `side` pixels per side that cover a picture without overlap, row by row."""
    rows, columns = (_edges(length, side) for length in (height, width))
    return [
        (top, left, bottom - top, right - left) for top, bottom in pairwise(rows) for left, right in pairwise(columns)
    ]


def _edges(length: int, side: int) -> list[int]:
    parts = max(1, round(length / side))
    return [round(length * part / parts) for part in range(parts + 1)]


def cut_boxes(boxes: np.ndarray, tile: Tile) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the parts of boxes that are inside a tile.

    Args:
      boxes: x1, y1, x2, y2 in pixels of the picture, `[n, 4]` float32.
      tile: the tile.

    Returns:
      The parts in pixels of the tile `[m, 4]`, their indices in `boxes` `[m]`, and the share of the area of each box
      that is inside the tile `[m]`. Parts narrower or lower than a pixel are left out.
    """
    top, left, height, width = tile
    limits = np.array([width, height] * 2, np.float32)
    cut = np.clip(boxes - np.array([left, top] * 2, np.float32), 0, limits)
    numbers = np.flatnonzero(((cut[:, 2:] - cut[:, :2]) >= 1).all(axis=1))
    whole = np.prod(boxes[numbers, 2:] - boxes[numbers, :2], axis=1)
    return cut[numbers], numbers, np.prod(cut[numbers, 2:] - cut[numbers, :2], axis=1) / whole
