"""Augments images, boxes and masks for training like mmdetection's recipes: flip, resize, crop, resize, padding."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from focalnet_jax.data.geometry import Placement, fitted_size
from focalnet_jax.data.instances import Instances
from focalnet_jax.tasks.detection.canvases import Canvases, fill_slots, largest
from focalnet_jax.tasks.detection.mask_slots import mask_slots

Size = tuple[int, int]  # height and width in pixels


@dataclass(frozen=True)
class Crop:
    """A crop of the image after a first resize.

    Attributes:
      full: height and width of the whole image after the first resize.
      top: first row of the crop.
      left: first column of the crop.
      size: height and width of the crop.
    """

    full: Size
    top: int
    left: int
    size: Size


@dataclass(frozen=True)
class Draws:
    """The random choices for an image.

    Attributes:
      mirrored: whether the image is mirrored left to right, before anything else.
      crop: crop before the last resize, or None.
      size: height and width of the resized image.
    """

    mirrored: bool
    crop: Crop | None
    size: Size

    def nearest(self, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns which row and column of a map each row and column of the augmented map shows, by nearest neighbour.

        The map has the size of the original image, `height` x `width`. As in mmdetection, it is resized twice if there
        is a crop.
        """
        size, rows, columns = (height, width), np.arange(height), np.arange(width)
        if self.crop is not None:
            size = self.crop.size
            rows, columns = Placement(self.crop.full, self.crop.top, self.crop.left, size).nearest(height, width)
        last_rows, last_columns = Placement(self.size, 0, 0, self.size).nearest(*size)
        rows, columns = rows[last_rows], columns[last_columns]
        return rows, width - 1 - columns if self.mirrored else columns


@dataclass(frozen=True)
class Augmentation:
    """Random flip, resize and crop of an image, its boxes and its masks, as in DETR's and FocalNet's recipes.

    Given the same draws, pixels, boxes and masks equal those of mmdetection's RandomFlip, Resize and RandomCrop. One
    exception keeps the number of shapes small: a crop that does not fit into the canvas of its image at the drawn scale
    is resized to the largest size that fits.

    Attributes:
      canvases: sizes of the padded images.
      short_sides: lengths of the shorter side after the last resize, one of which is drawn.
      long_side: largest length of the longer side.
      flip: probability of a horizontal flip.
      crop: probability of a crop between two resizes.
      crop_short_sides: lengths of the shorter side before the crop, one of which is drawn.
      crop_range: smallest and largest length of the sides of a crop, in pixels. Sides shorter than the smallest length
        are not cropped.
      slots: number N of boxes per image; the largest boxes are kept.
      mask_side: number M of cells along each axis of the mask of an object, see `mask_slots`; 0 for no masks.
    """

    canvases: Canvases
    short_sides: tuple[int, ...] = (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)
    long_side: int = 1333
    flip: float = 0.5
    crop: float = 0.5
    crop_short_sides: tuple[int, ...] = (400, 500, 600)
    crop_range: tuple[int, int] = (384, 600)
    slots: int = 100
    mask_side: int = 0

    def __call__(self, image: np.ndarray, instances: Instances, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Augments an image `[H, W, 3]` uint8 and its objects with random choices from `rng`, see `apply`."""
        return self.apply(image, instances, self.draw(rng, *image.shape[:2]))

    def draw(self, rng: np.random.Generator, height: int, width: int) -> Draws:
        """Draws the random choices for an image of `height` x `width` pixels."""
        mirrored = bool(rng.random() < self.flip)
        crop = self._draw_crop(rng, height, width) if rng.random() < self.crop else None
        size = fitted_size(*(crop.size if crop else (height, width)), self._box(rng, self.short_sides))
        return Draws(mirrored, crop, self.canvases.limited(size, height, width))

    def _draw_crop(self, rng: np.random.Generator, height: int, width: int) -> Crop:
        full = fitted_size(height, width, self._box(rng, self.crop_short_sides))
        least, most = self.crop_range
        size = tuple(int(rng.integers(min(side, least), min(side, most), endpoint=True)) for side in full)
        top, left = (int(rng.integers(large - small, endpoint=True)) for large, small in zip(full, size, strict=True))
        return Crop(full, top, left, size)

    def _box(self, rng: np.random.Generator, short_sides: tuple[int, ...]) -> tuple[int, int]:
        return self.long_side, short_sides[rng.integers(len(short_sides))]

    def apply(self, image: np.ndarray, instances: Instances, draws: Draws) -> dict[str, np.ndarray]:
        """Returns the augmented image on its canvas, its boxes, and its masks.

        Crowds are left out, as in mmdetection, where they are neither targets nor ignored.

        Returns:
          `image` `[H, W, 3]` uint8 on a canvas padded with 0, which must be set to 0 again after the image is
          normalized; `size` `[2]` int32: height and width without padding; `boxes` `[N, 4]` float32: x1, y1, x2, y2 in
          pixels; `labels` `[N]` int32: classes, -1 in unused slots; `excess` int32: number of boxes beyond N. If
          `mask_side` is not 0, also the arrays of `mask_slots`. An object whose box is in the image may have no pixels.

        Raises:
          UnreadableImageError: a mask is damaged.
        """
        canvas = self.canvases.of(*image.shape[:2])
        pixels = image[:, ::-1] if draws.mirrored else image
        if draws.crop is not None:
            pixels = Placement(draws.crop.full, draws.crop.top, draws.crop.left, draws.crop.size).image(pixels)
        pixels = Placement(draws.size, 0, 0, draws.size).image(pixels, canvas)
        boxes, objects = self._boxes(image.shape[:2], instances, draws)
        arrays = {"image": pixels, "size": np.array(draws.size, np.int32)}
        arrays |= fill_slots(boxes, instances.labels[objects], self.slots)
        if self.mask_side:
            segments = [instances.segments[each] for each in objects[largest(boxes, self.slots)]]
            places = draws.nearest(*image.shape[:2])
            arrays |= mask_slots(segments, image.shape[:2], *places, self.slots, self.mask_side)
        return arrays

    def _boxes(self, size: Size, instances: Instances, draws: Draws) -> tuple[np.ndarray, np.ndarray]:
        """Returns the boxes after augmentation, `[n, 4]`, and the index of the object of each box, `[n]`.

        Crowds, and objects whose boxes are outside of the crop, are left out.
        """
        objects = np.flatnonzero(~instances.crowd)
        boxes = instances.boxes[objects].astype(np.float32)
        if draws.mirrored:
            boxes = np.stack([size[1] - boxes[:, 2], boxes[:, 1], size[1] - boxes[:, 0], boxes[:, 3]], axis=1)
        if (crop := draws.crop) is not None:
            boxes = scaled(boxes, size, crop.full)
            boxes -= np.array([crop.left, crop.top] * 2, np.float32)
            boxes, size = clipped(boxes, crop.size), crop.size
            inside = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
            boxes, objects = boxes[inside], objects[inside]
        return scaled(boxes, size, draws.size), objects


def scaled(boxes: np.ndarray, old: Size, new: Size) -> np.ndarray:
    """Returns boxes `[n, 4]` float32 after their image is resized from size `old` to `new`, clipped to the image."""
    factors = np.array([new[1] / old[1], new[0] / old[0]] * 2, np.float32)
    return clipped(boxes * factors, new)


def clipped(boxes: np.ndarray, size: Size) -> np.ndarray:
    """Returns boxes `[n, 4]` clipped to an image of height and width `size`."""
    return np.clip(boxes, 0, np.array([size[1], size[0]] * 2, np.float32))
