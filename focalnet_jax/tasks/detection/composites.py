"""Composites of the handwritten digits of scikit-learn with their boxes, for smoke runs without data."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from focalnet_jax.data.decode import Picture
from focalnet_jax.data.digits_source import DIGITS_SPLITS, DigitsSource
from focalnet_jax.data.instances import Instances
from focalnet_jax.data.source import fingerprint_of
from focalnet_jax.tasks.detection.ground_truth import coco_content

SIDE = 64
EXAMPLES = {"train": 512, "val": 128}
_DIGITS = (1, 4)  # smallest and largest number of digits on a canvas
_DIGIT_SIDE = (16, 33)  # smallest side of a digit in pixels, and the first that is too large
_INK = 64  # grey value from which a pixel is a digit
_SEED = 20220326


class DigitBoxes:
    """Black canvases of 64x64 pixels with several digits, which may overlap, and the boxes of the digits.

    An example depends only on the split and its index. The digits of split `val` do not occur in split `train`.

    Raises:
      UserError: the split does not exist.
    """

    class_names = DigitsSource.class_names
    category_ids = tuple(range(1, 11))
    has_masks = False

    def __init__(self, split: str):
        self._digits, self._split = DigitsSource(split), split
        self.sizes = np.full((EXAMPLES[split], 2), SIDE)
        self.image_ids = np.arange(1, EXAMPLES[split] + 1)
        self.fingerprint = fingerprint_of(["boxes of digits", self._digits.fingerprint, str(EXAMPLES[split])])

    def __len__(self) -> int:
        return EXAMPLES[self._split]

    def __getitem__(self, index: int) -> tuple[Picture, Instances]:
        rng = np.random.default_rng([_SEED, DIGITS_SPLITS.index(self._split), index])
        canvas = np.zeros((SIDE, SIDE), np.uint8)
        boxes, labels = [], []
        for _ in range(rng.integers(_DIGITS[0], _DIGITS[1] + 1)):
            digit, side = rng.integers(len(self._digits)), int(rng.integers(*_DIGIT_SIDE))
            top, left = rng.integers(SIDE - side + 1, size=2)
            grey = Image.fromarray(self._digits[digit][0][..., 0]).resize((side, side), Image.Resampling.BILINEAR)
            ink = np.asarray(grey)
            place = np.s_[top : top + side, left : left + side]
            canvas[place] = np.where(ink >= _INK, ink, canvas[place])
            rows, columns = (np.flatnonzero((ink >= _INK).any(axis=axis)) for axis in (1, 0))
            boxes.append((left + columns[0], top + rows[0], left + columns[-1] + 1, top + rows[-1] + 1))
            labels.append(self._digits.labels[digit])
        boxes = np.array(boxes, np.float32)
        areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        ids = 100 * index + 1 + np.arange(len(labels))
        crowd = np.zeros(len(labels), bool)
        instances = Instances(index, boxes, np.array(labels, np.int32), crowd, areas, ids)
        return np.repeat(canvas[..., None], 3, axis=-1), instances

    def name(self, index: int) -> str:
        """Returns a name made of the example's index in the split, such as `composite 12`."""
        return f"composite {index}"

    def ground_truth(self) -> dict[str, Any]:
        """Returns the annotations of the split as the content of a COCO file."""
        return coco_content(self)
