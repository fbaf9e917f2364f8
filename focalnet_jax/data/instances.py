"""Ground truth of the objects in an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class Instances:
    """The annotated objects of an image, in pixels of the stored image.

    Attributes:
      index: index of the image in its source.
      boxes: x1, y1, x2 and y2 of each object, `[n, 4]` float32; widths are x2 - x1.
      labels: class numbers, `[n]` int32.
      crowd: whether each box contains a crowd of several objects, `[n]` bool.
      areas: areas of the objects in square pixels, `[n]` float32; in COCO's files, areas of the masks.
      ids: ids of the annotations, `[n]` int64.
      segments: polygons or run-length encoding of each object, or None for a data set without masks.
    """

    index: int
    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    areas: np.ndarray
    ids: np.ndarray
    segments: Sequence[Any] | None = None

    def __len__(self) -> int:
        return len(self.labels)
