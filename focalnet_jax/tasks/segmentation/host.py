"""Converts pairs of an image and a mask to arrays, without importing JAX."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ml_collections import FrozenConfigDict

from focalnet_jax.data.decode import Picture
from focalnet_jax.data.masks import MaskCoding, StoredMask, decode_pair
from focalnet_jax.data.preprocessing import sides
from focalnet_jax.tasks.segmentation.augment import Augmentation


@dataclass(frozen=True)
class SegmentationHost:
    """`Host` that augments training examples, and evaluates images at their own size.

    Attributes:
      train: augmentation of training examples.
      coding: meaning of the values of stored masks.
    """

    train: Augmentation
    coding: MaskCoding

    def train_example(self, example: tuple[Picture, StoredMask], rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Returns the arrays of `Augmentation.apply` for an image and its mask.

        Raises:
          UnreadableImageError: the image or the mask cannot be decoded, or their sizes differ.
        """
        return self.train(*decode_pair(*example, self.coding), rng)

    def eval_example(self, example: tuple[Picture, StoredMask]) -> dict[str, np.ndarray]:
        """Returns `image` `[H, W, 3]` uint8 and its class numbers `classes`, `[H, W]` uint8.

        Raises:
          UnreadableImageError: the image or the mask cannot be decoded, or their sizes differ.
        """
        image, mask = decode_pair(*example, self.coding)
        return {"image": image, "classes": mask}


def make_host(config: FrozenConfigDict, coding: MaskCoding) -> SegmentationHost:
    """Returns the transforms of a config for masks with this coding."""
    augment = config.augment
    chosen = {} if augment.photometric else {"photometric": None}
    train = Augmentation(
        size=sides(config.data.image_size),
        box=tuple(augment.box),
        ratio=tuple(augment.ratio),
        cat_max_ratio=augment.cat_max_ratio,
        flip=augment.flip,
        **chosen,
    )
    return SegmentationHost(train, coding)
