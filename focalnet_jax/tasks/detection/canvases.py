"""Canvases: the few sizes that images are padded to, so that few programs are compiled. Nothing here imports JAX."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Size = tuple[int, int]  # height and width in pixels


@dataclass(frozen=True)
class Canvases:
    """Two canvases: landscape for images that are at least as wide as high, portrait for all other images.

    Attributes:
      short: length of the shorter side in pixels.
      long: length of the longer side in pixels.
    """

    short: int = 800
    long: int = 1344

    def of(self, height: int, width: int) -> Size:
        """Returns the height and width of the canvas for an image of `height` x `width` pixels."""
        return (self.short, self.long) if width >= height else (self.long, self.short)

    def limited(self, size: Size, height: int, width: int) -> Size:
        """Returns `size`, reduced with its aspect ratio if necessary to fit into the canvas `of(height, width)`."""
        canvas = self.of(height, width)
        factor = min(canvas[0] / size[0], canvas[1] / size[1])
        if factor >= 1:
            return size
        return tuple(max(1, min(limit, int(side * factor + 0.5))) for side, limit in zip(size, canvas, strict=True))

    def groups(self, sizes: np.ndarray) -> list[np.ndarray]:
        """Returns the indices of the images of each canvas, ascending, without empty groups.

        Args:
          sizes: height and width of each image, `[n, 2]`.
        """
        sizes = np.asarray(sizes).reshape(-1, 2)
        if self.short == self.long:
            return [np.arange(len(sizes))]
        wide = sizes[:, 1] >= sizes[:, 0]
        return [group for group in (np.flatnonzero(wide), np.flatnonzero(~wide)) if group.size]


def padded_size(size: Size, multiple: int) -> Size:
    """Returns the sides of `size`, each rounded up to a multiple of `multiple`."""
    return tuple(-(-side // multiple) * multiple for side in size)


def largest(boxes: np.ndarray, slots: int) -> np.ndarray:
    """Returns the indices of the largest boxes, at most `slots`, in ascending order."""
    if len(boxes) <= slots:
        return np.arange(len(boxes))
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return np.sort(np.argsort(-areas, kind="stable")[:slots])


def fill_slots(boxes: np.ndarray, labels: np.ndarray, slots: int) -> dict[str, np.ndarray]:
    """Puts boxes and labels into a fixed number of slots. If there are too many boxes, the largest are kept.

    Args:
      boxes: `[n, 4]` float32.
      labels: `[n]`.
      slots: number N of slots.

    Returns:
      `boxes` `[N, 4]` float32, 0 in unused slots; `labels` `[N]` int32, -1 in unused slots; and `excess` int32, the
      number of boxes that are left out.
    """
    kept, excess = largest(boxes, slots), max(0, len(boxes) - slots)
    boxes, labels = boxes[kept], labels[kept]
    filled = {"boxes": np.zeros((slots, 4), np.float32), "labels": np.full(slots, -1, np.int32)}
    filled["boxes"][: len(boxes)], filled["labels"][: len(labels)] = boxes, labels
    return filled | {"excess": np.array(excess, np.int32)}
