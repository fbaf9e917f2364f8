"""Augments images and masks for training like mmsegmentation's recipes: resize, crop, flip, colours, padding."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from focalnet_jax.data.geometry import Placement, fitted_size
from focalnet_jax.data.masks import IGNORED
from focalnet_jax.data.photometric import Distortion, Photometric
from focalnet_jax.data.pixels import numba_compiled

_REDRAWS = 10  # largest number of further crops; drawn while one class fills too much of the crop
_PHOTOMETRIC = Photometric()


@dataclass(frozen=True)
class Draws:
    """The random choices for an image.

    Attributes:
      full: height and width of the whole resized image.
      corners: first row and first column of the crops to try, in this order.
      mirrored: whether the crop is mirrored left to right.
      distortion: change of the colours, or None.
    """

    full: tuple[int, int]
    corners: tuple[tuple[int, int], ...]
    mirrored: bool
    distortion: Distortion | None


@dataclass(frozen=True)
class Augmentation:
    """Random resize, crop, flip and distortion of an image and its mask.

    Given the same draws, the pixels equal those of mmsegmentation's RandomResize, RandomCrop, RandomFlip and
    PhotoMetricDistortion.

    Attributes:
      size: height and width of the crop.
      box: long and short side of the box that an image is resized to fit into at ratio 1, see `geometry.fitted_size`.
      ratio: smallest and largest factor of both sides of `box`; drawn uniformly.
      cat_max_ratio: a crop is drawn again, up to ten times, if its most frequent class fills at least this share of the
        pixels that are not ignored. The last crop is not checked. With 1, no crop is checked.
      flip: probability of a horizontal flip.
      photometric: distribution of the changes of colours, or None.
    """

    size: tuple[int, int] = (512, 512)
    box: tuple[int, int] = (2048, 512)
    ratio: tuple[float, float] = (0.5, 2.0)
    cat_max_ratio: float = 0.75
    flip: float = 0.5
    photometric: Photometric | None = _PHOTOMETRIC

    def __call__(self, image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Augments an image `[H, W, 3]` uint8 and its mask `[H, W]` uint8, see `apply`."""
        return self.apply(image, mask, self.draw(rng, *mask.shape))

    def draw(self, rng: np.random.Generator, height: int, width: int) -> Draws:
        """Draws the random choices for an image of `height` x `width` pixels."""
        ratio = rng.random() * (self.ratio[1] - self.ratio[0]) + self.ratio[0]
        full = fitted_size(height, width, (int(self.box[0] * ratio), int(self.box[1] * ratio)))
        count = 1 + _REDRAWS if self.cat_max_ratio < 1 else 1
        tops, lefts = (
            rng.integers(0, max(large - small, 0) + 1, count).tolist()
            for large, small in zip(full, self.size, strict=True)
        )
        corners = tuple(zip(tops, lefts, strict=True))
        distortion = self.photometric and self.photometric.draw(rng)
        return Draws(full, corners, bool(rng.random() < self.flip), distortion)

    def apply(self, image: np.ndarray, mask: np.ndarray, draws: Draws) -> dict[str, np.ndarray]:
        """Returns the augmented image and mask, padded on the right and at the bottom.

        Returns:
          `image` `[h, w, 3]` uint8, padded with 0; `mask` `[h, w]` uint8, padded with `IGNORED`; and `size` `[2]`
          int32: height and width without padding. mmsegmentation pads images with 0 after normalizing them, so the
          caller must set the padding to 0 after normalizing.
        """
        placement = self._place(mask, draws)
        pixels = placement.image(image, self.size)
        if draws.distortion:
            draws.distortion.apply(pixels, placement.size)
        labels = placement.labels(mask, self.size, IGNORED)
        return {"image": pixels, "mask": labels, "size": np.array(placement.size, np.int32)}

    def _place(self, mask: np.ndarray, draws: Draws) -> Placement:
        """Returns the first of the drawn crops with a mixture of classes, or the last crop."""
        size = tuple(min(small, large) for small, large in zip(self.size, draws.full, strict=True))
        for top, left in draws.corners[:-1]:
            placement = Placement(draws.full, top, left, size, draws.mirrored)
            counts = _histogram(mask, *placement.nearest(*mask.shape))[:IGNORED]
            if np.count_nonzero(counts) > 1 and counts.max() / counts.sum() < self.cat_max_ratio:
                return placement
        return Placement(draws.full, *draws.corners[-1], size, draws.mirrored)


@numba_compiled
def _histogram(mask, rows, columns):  # pragma: no cover - compiled
    """Returns the number of pixels of each label in the given rows and columns of a mask, `[256]` int64."""
    counts = np.zeros(256, np.int64)
    for y in range(rows.size):
        row = mask[rows[y]]
        label, first = row[columns[0]], 0  # label and first column of a run of equal labels
        for x in range(1, columns.size):
            if row[columns[x]] != label:
                counts[label] += x - first
                label, first = row[columns[x]], x
        counts[label] += columns.size - first
    return counts
