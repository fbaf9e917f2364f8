"""Composites of the handwritten digits of scikit-learn, with boxes and masks, for smoke runs without data."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from focalnet_jax.data.decode import Picture
from focalnet_jax.data.digits_source import DIGITS_SPLITS, DigitsSource
from focalnet_jax.data.instances import Instances
from focalnet_jax.data.source import fingerprint_of
from focalnet_jax.tasks.detection.truth import as_coco, instances_of_bitmaps

SIDES = ((96, 128), (128, 96), (128, 128))  # heights and widths of the canvases in pixels
EXAMPLES = {"train": 512, "val": 32}
_DIGITS = (1, 6)  # smallest and largest number of digits on a canvas
_DIGIT_SIDE = (16, 65)  # smallest side of a digit in pixels, and the first that is too large
_INK = 96  # grey value from which a pixel is a digit
_BACKGROUND = 80  # brightest background
_VISIBLE = 0.6  # least share of a digit's pixels that later digits leave visible
_TRIES = 8  # places that are tried for a digit
_SEED = 20220326


class DigitComposites:
    """Grey canvases of three shapes with several digits, and the box and the visible pixels of each digit.

    The classes are the ten digits. The background is another digit, enlarged to the canvas. Digits may overlap, but at
    least the share `_VISIBLE` of each digit remains visible. An example depends only on the split and the index. The
    digits of split `val` do not occur in split `train`.

    Attributes:
      class_names: names of the classes.
      category_ids: 1 to 10.
      sizes: height and width of each canvas, `[n, 2]`.
      image_ids: 1 to n.
      has_masks: True.
      fingerprint: text that differs between different data.

    Raises:
      UserError: the split does not exist.
    """

    class_names = DigitsSource.class_names
    category_ids = tuple(range(1, len(class_names) + 1))
    has_masks = True

    def __init__(self, split: str):
        self._digits, self._split = DigitsSource(split), split
        self.sizes = np.array([SIDES[index % len(SIDES)] for index in range(EXAMPLES[split])], np.int32)
        self.image_ids = np.arange(1, EXAMPLES[split] + 1)
        self.fingerprint = fingerprint_of(["detection composites", self._digits.fingerprint, str(EXAMPLES[split])])

    def __len__(self) -> int:
        return EXAMPLES[self._split]

    def __getitem__(self, index: int) -> tuple[Picture, Instances]:
        rng = np.random.default_rng([_SEED, DIGITS_SPLITS.index(self._split), index])
        height, width = self.sizes[index].tolist()
        canvas = self._enlarged(rng.integers(len(self._digits)), (height, width), _BACKGROUND)
        visible: list[np.ndarray] = []  # pixels of each digit
        whole: list[int] = []  # number of pixels of each digit before other digits cover it
        labels: list[int] = []
        for _ in range(rng.integers(_DIGITS[0], _DIGITS[1] + 1)):
            digit, side = rng.integers(len(self._digits)), int(rng.integers(*_DIGIT_SIDE))
            ink = self._enlarged(digit, (side, side), 255)
            for _ in range(_TRIES):
                top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
                place = np.s_[top : top + side, left : left + side]
                pixels = np.zeros((height, width), bool)
                pixels[place] = ink >= _INK
                if all((each & ~pixels).sum() >= _VISIBLE * size for each, size in zip(visible, whole, strict=True)):
                    visible = [*(each & ~pixels for each in visible), pixels]
                    whole.append(int(pixels.sum()))
                    labels.append(int(self._digits.labels[digit]))
                    canvas[place] = np.where(ink >= _INK, ink, canvas[place])
                    break
        ids = index * _DIGITS[1] + 1 + np.arange(len(labels))
        found = instances_of_bitmaps(index, visible, labels, ids.tolist(), [False] * len(labels))
        return np.repeat(canvas[..., None], 3, axis=-1), found

    def _enlarged(self, digit: int, size: tuple[int, int], brightest: int) -> np.ndarray:
        """Returns a digit of height and width `size`, uint8, with grey values up to `brightest`."""
        grey = Image.fromarray(self._digits[digit][0][..., 0]).resize(size[::-1], Image.Resampling.BILINEAR)
        return (np.asarray(grey).astype(np.int32) * brightest // 255).astype(np.uint8)

    def name(self, index: int) -> str:
        """Returns a name made of the example's index in the split, such as `composite 12`."""
        return f"composite {index}"

    def ground_truth(self) -> dict[str, Any]:
        """Returns the annotations of the split as the content of a COCO file."""
        found = [self[index][1] for index in range(len(self))]
        names = [self.name(index) for index in range(len(self))]
        return as_coco(found, names, self.sizes, self.image_ids, self.class_names)
