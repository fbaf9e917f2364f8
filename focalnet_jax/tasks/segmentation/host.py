"""Converts pairs of an image and a mask to arrays, without importing JAX."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from focalnet_jax.data.decode import Picture, UnreadableImageError, decode
from focalnet_jax.tasks.segmentation.augment import Augmentation


@dataclass(frozen=True)
class SegmentationHost:
    """Augments training examples for the trainer."""

    train: Augmentation

    def train_example(self, example: tuple[Picture, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Returns the arrays of `Augmentation.apply` for an image and its mask, `[H, W]` uint8.

        Raises:
          UnreadableImageError: the image cannot be decoded, or the mask has a different size.
        """
        picture, mask = example
        image = decode(picture)
        if mask.shape != image.shape[:2]:
            (tall, wide), (height, width) = mask.shape, image.shape[:2]
            raise UnreadableImageError(f"its mask has {wide}x{tall} pixels, but the image has {width}x{height}")
        return self.train(image, mask, rng)
