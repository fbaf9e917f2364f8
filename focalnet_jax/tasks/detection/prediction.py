"""The objects detected in an image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from focalnet_jax.data.cutouts import Cutout, encode_cutout
from focalnet_jax.data.drawing import at_least
from focalnet_jax.tasks.detection.figures import Drawn, draw_objects

_LEAST_SIDE, _MOST_SIDE = 240, 4096  # pixels of an enlarged image, so that names can be read


@dataclass(frozen=True, eq=False)
class DetectionPrediction:
    """`Prediction` of objects.

    Attributes:
      boxes: `[n, 4]` float32 in pixels of the image, the highest score first.
      classes: class of each box, `[n]`.
      confidences: score of each box in [0, 1], `[n]`.
      masks: pixels of each object, or None for a detector without masks.
      size: height and width of the image in pixels.
      labels: full names of the K classes.
      names: short and distinct names of the classes.
      colours: colours of the classes, `[K, 3]` uint8.
      shown: smallest score of objects that are drawn and counted in `line`.
      most: largest number of classes in `line` and `scores`.
    """

    boxes: np.ndarray
    classes: np.ndarray
    confidences: np.ndarray
    masks: Sequence[Cutout] | None
    size: tuple[int, int]
    labels: tuple[str, ...]
    names: tuple[str, ...]
    colours: np.ndarray
    shown: float
    most: int

    def line(self) -> str:
        """Returns the number of objects of the most frequent classes and the number of others, or "nothing".

        Only objects with a score of at least `shown` are counted.
        """
        counts = Counter(self.classes[self.confidences >= self.shown].tolist()).most_common()
        parts = [f"{count} {self.names[each]}" for each, count in counts[: self.most]]
        others = sum(count for _, count in counts[self.most :])
        return ", ".join([*parts, f"{others} more"] if others else parts) or "nothing"

    def json(self) -> dict[str, Any]:
        """Returns `objects`, a list of JSON objects with `label`, `class`, `score` and `box`, the highest score first.

        `box` is x1, y1, x2, y2 in pixels of the image. All detections are listed, also those that are not drawn. With
        masks, each also has `segmentation`, COCO's compressed run-length encoding with `size` and `counts`.
        """
        found = zip(self.boxes.tolist(), self.classes.tolist(), self.confidences.tolist(), strict=True)
        objects: list[dict[str, Any]] = [
            {"label": self.labels[each], "class": each, "score": score, "box": box} for box, each, score in found
        ]
        for entry, mask in zip(objects, self.masks or (), strict=False):
            entry["segmentation"] = encode_cutout(mask, self.size)
        return {"objects": objects}

    def scores(self) -> dict[str, float]:
        """Returns the highest score of each detected class by short name: at most `most` classes, the highest first."""
        best: dict[str, float] = {}
        for each, score in zip(self.classes.tolist(), self.confidences.tolist(), strict=True):
            best.setdefault(self.names[each], score)
        return dict(list(best.items())[: self.most])

    def draw(self, image: np.ndarray) -> np.ndarray:
        """Returns the image `[H, W, 3]` uint8 with boxes, masks, names and scores. A small image is enlarged."""
        enlarged = at_least(_LEAST_SIDE, image, _MOST_SIDE)
        kept = np.flatnonzero(self.confidences >= self.shown)
        factor = enlarged.shape[1] / self.size[1]  # the image may have been resized
        masks = None if self.masks is None else [self.masks[each] for each in kept]
        found = Drawn(self.boxes[kept], self.classes[kept], self.confidences[kept], masks)
        return draw_objects(enlarged, found, self.names, self.colours, factor)

    def files(self) -> dict[str, bytes]:
        """Returns an empty dict: detections are only drawn."""
        return {}
