"""Options of inference with a detector. Nothing here imports JAX."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ml_collections import FrozenConfigDict

from focalnet_jax.data.geometry import fitted_size
from focalnet_jax.data.preprocessing import IMAGENET, Normalization, from_config, sides
from focalnet_jax.tasks.detection.canvases import Canvases, Size, padded_size

_USUAL = Canvases()
# The original's thresholds by head; the heads that are not listed have the score threshold 0.05 and the IoU 0.5.
_SCORE, _IOU = {"sparse_rcnn": 0.0}, {"atss": 0.6}
PAD = 32  # mmdetection pads images to multiples of this number


@dataclass(frozen=True)
class Options:
    """Options of inference on images of any size.

    The defaults of `box`, `candidates`, `score`, `iou` and `detections` are those of the original's ATSS.

    Attributes:
      box: long and short side of the box that an image is resized to fit into.
      canvases: sizes of the padded images.
      exact: whether images are padded to multiples of `PAD` instead of to the canvases.
      candidates: largest number of boxes per level before non-maximum suppression.
      score: threshold of the score; a detection has a larger score.
      iou: a box is removed if its IoU with a better box of the same class is larger than this number.
      detections: largest number of detections per image.
      nms_candidates: largest number of pairs of a box and a class that non-maximum suppression considers.
      normalization: normalization of the images.
    """

    box: tuple[int, int] = (1333, 800)
    canvases: Canvases = _USUAL
    exact: bool = False
    candidates: int = 1000
    score: float = 0.05
    iou: float = 0.6
    detections: int = 100
    nms_candidates: int = 4096
    normalization: Normalization = IMAGENET

    def size(self, height: int, width: int) -> Size:
        """Returns the height and width that an image of `height` x `width` pixels is resized to."""
        size = fitted_size(height, width, self.box)
        return size if self.exact else self.canvases.limited(size, height, width)

    def canvas(self, height: int, width: int) -> Size:
        """Returns the height and width of the canvas for an image of `height` x `width` pixels, after padding."""
        return padded_size(self.size(height, width), PAD) if self.exact else self.canvases.of(height, width)

    def groups(self, sizes: np.ndarray) -> list[np.ndarray]:
        """Returns the indices of the images of each canvas, ascending, the largest canvas first.

        Args:
          sizes: height and width of each image, `[n, 2]`.
        """
        found: dict[Size, list[int]] = {}
        for index, (height, width) in enumerate(np.asarray(sizes).tolist()):
            found.setdefault(self.canvas(height, width), []).append(index)
        ordered = sorted(found, key=lambda canvas: (-canvas[0] * canvas[1], canvas))
        return [np.array(found[canvas]) for canvas in ordered]


def canvases_of(config: FrozenConfigDict) -> Canvases:
    """Returns the canvases of a config."""
    return Canvases(*sides(config.data.image_size))


def options_of(config: FrozenConfigDict) -> Options:
    """Returns the options of a config."""
    keys = config.inference
    return Options(
        tuple(keys.box),
        canvases_of(config),
        keys.exact,
        keys.candidates,
        _SCORE.get(config.head.name, 0.05) if keys.score is None else keys.score,
        _IOU.get(config.head.name, 0.5) if keys.iou is None else keys.iou,
        keys.detections,
        normalization=from_config(config.data).normalization,
    )
