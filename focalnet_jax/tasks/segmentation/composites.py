"""Composites of the handwritten digits of scikit-learn, for smoke runs without data."""

from __future__ import annotations

import numpy as np
from PIL import Image

from focalnet_jax.data.decode import Picture
from focalnet_jax.data.digits_source import DIGITS_SPLITS, DigitsSource
from focalnet_jax.data.masks import IGNORED, MaskCoding, StoredMask
from focalnet_jax.data.source import fingerprint_of

SIDE = 64  # pixels
EXAMPLES = {"train": 512, "val": 128}
_DIGITS = (2, 5)  # smallest and largest number of digits on a canvas
_DIGIT_SIDE = (16, 33)  # side of a digit in pixels: smallest, and largest + 1
_INK, _EDGE = 128, 64  # smallest grey value of a digit, and of the edge of a digit, which is ignored
_BACKGROUND = 96  # brightest background
_SEED = 20220326


class DigitComposites:
    """Grey canvases of 64x64 pixels with several digits, which may overlap, and their masks.

    The classes are the background and the ten digits. The background is another digit, enlarged to the canvas. The
    edges of the digits are ignored. An example depends only on the split and the index. The digits of split `val` do
    not occur in split `train`.

    Raises:
      UserError: the split does not exist.
    """

    class_names = ("background", *DigitsSource.class_names)
    palette = None
    size = (SIDE, SIDE)
    coding = MaskCoding(len(class_names))

    def __init__(self, split: str):
        self._digits, self._split = DigitsSource(split), split
        self.fingerprint = fingerprint_of(["composites", self._digits.fingerprint, str(EXAMPLES[split])])

    def __len__(self) -> int:
        return EXAMPLES[self._split]

    def __getitem__(self, index: int) -> tuple[Picture, StoredMask]:
        rng = np.random.default_rng([_SEED, DIGITS_SPLITS.index(self._split), index])
        canvas = self._enlarged(rng.integers(len(self._digits)), SIDE, _BACKGROUND)
        mask = np.zeros((SIDE, SIDE), np.uint8)
        for _ in range(rng.integers(_DIGITS[0], _DIGITS[1] + 1)):
            digit, side = rng.integers(len(self._digits)), int(rng.integers(*_DIGIT_SIDE))
            top, left = rng.integers(SIDE - side + 1, size=2)
            ink = self._enlarged(digit, side, 255)
            place = np.s_[top : top + side, left : left + side]
            canvas[place] = np.where(ink >= _EDGE, ink, canvas[place])
            label = np.where(ink >= _INK, self._digits.labels[digit] + 1, IGNORED)
            mask[place] = np.where(ink >= _EDGE, label, mask[place])
        return np.repeat(canvas[..., None], 3, axis=-1), mask

    def _enlarged(self, digit: int, side: int, brightest: int) -> np.ndarray:
        """Returns a digit `[side, side]` uint8 with grey values up to `brightest`."""
        grey = Image.fromarray(self._digits[digit][0][..., 0]).resize((side, side), Image.Resampling.BILINEAR)
        return (np.asarray(grey).astype(np.int32) * brightest // 255).astype(np.uint8)

    def name(self, index: int) -> str:
        """Returns a name made of the example's index in the split, such as `composite 12`."""
        return f"composite {index}"
