"""Converts pairs of an image and a mask to arrays, without importing JAX."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from ml_collections import FrozenConfigDict

from focalnet_jax.data.decode import Picture
from focalnet_jax.data.geometry import resize
from focalnet_jax.data.image_size import image_sizes
from focalnet_jax.data.masks import IGNORED, MaskCoding, StoredMask, decode_pair
from focalnet_jax.data.preprocessing import sides
from focalnet_jax.tasks.segmentation.augment import Augmentation
from focalnet_jax.tasks.segmentation.shapes import Inference, inference_of
from focalnet_jax.tasks.segmentation.sources import PairSource

_USUAL = Inference()


@dataclass(frozen=True)
class SegmentationHost:
    """`Host` that augments training examples, and resizes evaluation images without cropping them.

    Attributes:
      train: augmentation of training examples.
      coding: meaning of the values of stored masks.
      options: sizes of the images of evaluations.
    """

    train: Augmentation
    coding: MaskCoding
    options: Inference = _USUAL

    def train_example(self, example: tuple[Picture, StoredMask], rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Returns the arrays of `Augmentation.apply` for an image and its mask.

        Raises:
          UnreadableImageError: the image or the mask cannot be decoded, or their sizes differ.
        """
        return self.train(*decode_pair(*example, self.coding), rng)

    def eval_example(self, example: tuple[Picture, StoredMask]) -> dict[str, np.ndarray]:
        """Returns the arrays of an image and its mask for `inference.scores`.

        Returns:
          `image` `[h, w, 3]` uint8, and `image/1` and so on for further scales; `size` `[2]` int32: height H and width
          W of the image before it is resized; and `classes` `[Hc, Wc]` uint8: class numbers of the H x W pixels in the
          upper left, and `IGNORED` outside.

        Raises:
          UnreadableImageError: the image or the mask cannot be decoded, or their sizes differ.
        """
        image, mask = decode_pair(*example, self.coding)
        height, width = mask.shape
        classes = np.full(self.options.canvas(height, width), IGNORED, np.uint8)
        classes[:height, :width] = mask
        return resized_images(image, self.options) | {"classes": classes}

    def groups(self, source: PairSource) -> list[np.ndarray]:
        """Returns the ascending indices of each group of examples whose arrays have equal shapes.

        The group with the largest shapes comes first, so that a lack of memory shows in the first batch.

        Raises:
          UserError: an image cannot be read; the message names the image.
        """
        if source.size is not None:
            return [np.arange(len(source))]
        found: dict[tuple[tuple[int, int], ...], list[int]] = {}
        for index, (height, width) in enumerate(image_sizes(source)):
            found.setdefault(self.options.shape(height, width), []).append(index)
        ordered = sorted(found, key=lambda shapes: (-sum(math.prod(shape) for shape in shapes), shapes))
        return [np.array(found[shapes]) for shapes in ordered]


def resized_images(image: np.ndarray, options: Inference) -> dict[str, np.ndarray]:
    """Returns an image `[H, W, 3]` uint8 resized for each scale, and its `size`, see `eval_example`."""
    size = image.shape[:2]
    resized = {name: resize(image, each) for name, each in zip(options.names, options.sizes(*size), strict=True)}
    return resized | {"size": np.array(size, np.int32)}


def make_host(config: FrozenConfigDict, coding: MaskCoding) -> SegmentationHost:
    """Returns the host with the augmentation and the options of a config, for masks with this coding."""
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
    return SegmentationHost(train, coding, inference_of(config))
