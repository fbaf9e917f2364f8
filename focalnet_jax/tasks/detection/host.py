"""Converts images and their objects to arrays, without importing JAX."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ml_collections import FrozenConfigDict

from focalnet_jax.data.decode import Picture, decode
from focalnet_jax.data.geometry import Placement
from focalnet_jax.data.instances import Instances
from focalnet_jax.settings.detection import MASKS
from focalnet_jax.tasks.detection.augment import Augmentation, Draws, scaled
from focalnet_jax.tasks.detection.canvases import fill_slots, largest
from focalnet_jax.tasks.detection.mask_slots import mask_slots
from focalnet_jax.tasks.detection.options import Options, canvases_of, options_of
from focalnet_jax.tasks.detection.sources import DetectionSource


@dataclass(frozen=True)
class DetectionHost:
    """`Host` that augments training examples, and resizes the images of evaluations to fit into a box.

    Attributes:
      train: augmentation of training examples.
      options: sizes of the images of evaluations.
      slots: number N of boxes per image in an evaluation, for the loss; the largest boxes are kept.
      mask_side: see `Augmentation`.
    """

    train: Augmentation
    options: Options
    slots: int
    mask_side: int = 0

    def train_example(self, example: tuple[Picture, Instances], rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Returns the arrays of `Augmentation.apply` for an image and its objects.

        Raises:
          UnreadableImageError: the image cannot be decoded, or a mask is damaged.
        """
        picture, instances = example
        return self.train(decode(picture), instances, rng)

    def eval_example(self, example: tuple[Picture, Instances]) -> dict[str, np.ndarray]:
        """Returns the arrays of `resized_image`, of `fill_slots` and of `mask_slots`, and the `index` of the image.

        Crowds are left out. There are no arrays of `mask_slots` if the detector or the objects have no masks.

        Raises:
          UnreadableImageError: the image cannot be decoded, or a mask is damaged.
        """
        picture, instances = example
        image = decode(picture)
        arrays = resized_image(image, self.options)
        stored, size = image.shape[:2], tuple(arrays["size"].tolist())
        objects = np.flatnonzero(~instances.crowd)
        boxes = scaled(instances.boxes[objects].astype(np.float32), stored, size)
        filled = fill_slots(boxes, instances.labels[objects], self.slots)
        if self.mask_side and instances.segments is not None:
            segments = [instances.segments[each] for each in objects[largest(boxes, self.slots)]]
            places = Draws(False, None, size).nearest(*stored)
            filled |= mask_slots(segments, stored, *places, self.slots, self.mask_side)
        return arrays | filled | {"index": np.array(instances.index, np.int32)}

    def groups(self, source: DetectionSource) -> list[np.ndarray]:
        """Returns the indices of the examples of each canvas, see `Options.groups`."""
        return self.options.groups(source.sizes)


def resized_image(image: np.ndarray, options: Options) -> dict[str, np.ndarray]:
    """Returns an image resized as in an evaluation.

    Args:
      image: the image, `[H, W, 3]` uint8.
      options: the box that the image fits into, and the padding.

    Returns:
      `image` `[h, w, 3]` uint8 on a canvas padded with 0; `size` `[2]` int32: height and width without padding; and
      `scale` `[4]` float32: the factors by which resizing multiplied the coordinates x1, y1, x2 and y2.
    """
    height, width = image.shape[:2]
    size = options.size(height, width)
    pixels = Placement(size, 0, 0, size).image(image, options.canvas(height, width))
    scale = np.array([size[1] / width, size[0] / height] * 2, np.float32)
    return {"image": pixels, "size": np.array(size, np.int32), "scale": scale}


def make_host(config: FrozenConfigDict) -> DetectionHost:
    """Returns the host with the augmentation and the options of a config."""
    augment = config.augment
    mask_side = mask_side_of(config)
    train = Augmentation(
        canvases_of(config),
        short_sides=tuple(augment.short_sides),
        long_side=augment.long_side,
        flip=augment.flip,
        crop=augment.crop,
        crop_short_sides=tuple(augment.crop_short_sides),
        crop_range=tuple(augment.crop_range),
        slots=config.data.max_boxes,
        mask_side=mask_side,
    )
    return DetectionHost(train, options_of(config), config.data.max_boxes, mask_side)


def mask_side_of(config: FrozenConfigDict) -> int:
    """Returns the number of cells along each axis of the mask of an object; 0 for a detector without masks."""
    return config.data.mask_side if config.head.name in MASKS else 0
