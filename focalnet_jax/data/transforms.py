"""Resize, crop, flip and augmentation of an image `[H, W, 3]` uint8 on the host.

Resampling is antialiased and equal to Pillow's. The published recipes use bicubic interpolation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from focalnet_jax.data.pixels import resize
from focalnet_jax.data.policies import Augment
from focalnet_jax.data.preprocessing import Preprocessing, from_config, sides

_CROP_ATTEMPTS = 10

TrainTransform = Callable[[np.ndarray, np.random.Generator], np.ndarray]
EvalTransform = Callable[[np.ndarray], np.ndarray]


def random_resized_crop_box(
    width: int, height: int, scale: tuple[float, float], ratio: tuple[float, float], rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """Returns a crop `(left, top, right, bottom)` in pixels, of random area and log-uniform aspect ratio.

    Like torchvision's RandomResizedCrop, this makes ten attempts to find a crop that fits into the image, and then
    returns a centred crop with the image's aspect ratio clamped to `ratio`.

    Args:
      width: width of the image.
      height: height of the image.
      scale: smallest and largest fraction of the image's area.
      ratio: smallest and largest width / height of the crop.
      rng: source of randomness.
    """
    area = width * height
    for _ in range(_CROP_ATTEMPTS):
        target = area * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
            return left, top, left + w, top + h
    aspect = min(max(width / height, ratio[0]), ratio[1])
    w = min(width, max(1, round(height * aspect)))
    h = min(height, max(1, round(width / aspect)))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def train_transform(
    size: int | tuple[int, int],
    crop_scale: tuple[float, float],
    crop_ratio: tuple[float, float],
    flip: float,
    augments: Sequence[Augment] = (),
    interpolation: str = "bicubic",
) -> TrainTransform:
    """Returns a training transform, which applies a random resized crop, a horizontal flip, and then `augments`.

    Args:
      size: side of the result, or its height and width, in pixels.
      crop_scale: smallest and largest fraction of the image's area.
      crop_ratio: smallest and largest width / height of the crop.
      flip: probability of a flip.
      augments: augmentations of the cropped image, in the order in which they are applied.
      interpolation: filter, a name in `preprocessing.FILTERS`.
    """
    tall, wide = sides(size)

    def transform(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        height, width, _ = image.shape
        box = random_resized_crop_box(width, height, crop_scale, crop_ratio, rng)
        flipped = rng.random() < flip
        image = resize(image, box, (wide, tall), (0, 0, wide, tall), mirrored=flipped, interpolation=interpolation)
        for augment in augments:
            image = augment(image, rng)
        return image

    return transform


def eval_transform(how: Preprocessing | int, resized: int | None = None) -> EvalTransform:
    """Returns an evaluation transform, which resizes and crops images `[H, W, 3]` to `[*size, 3]`, both uint8.

    Args:
      how: the preprocessing, whose normalization is not applied; or the output size for the published recipes'
        preprocessing, which resizes the shorter side to `resized` and then crops the centre.
      resized: shorter side in pixels after resizing, if `how` is a size; by default 256/224 of the size.
    """
    if not isinstance(how, Preprocessing):
        how = from_config({"image_size": how, "eval_resize": resized})
    return partial(_resize_and_crop, how)


def _resize_and_crop(how: Preprocessing, image: np.ndarray) -> np.ndarray:
    height, width, _ = image.shape
    full = _full_size(how, height, width)
    starts = [how.crop_start(large, small) for large, small in zip(full, how.size, strict=True)]
    (top, bottom), (left, right) = [
        (max(start, 0), min(start + side, large)) for start, side, large in zip(starts, how.size, full, strict=True)
    ]
    if full == (height, width):
        inside = image[top:bottom, left:right]
    else:
        part = (left, top, right - left, bottom - top)
        inside = resize(image, (0, 0, width, height), full[::-1], part, interpolation=how.interpolation)
    if inside.shape[:2] == how.size:
        return inside
    padded = np.empty((*how.size, 3), np.uint8)
    padded[:] = how.fill
    above, before = (max(-start, 0) for start in starts)
    padded[above : above + bottom - top, before : before + right - left] = inside
    return padded


def _full_size(how: Preprocessing, height: int, width: int) -> tuple[int, int]:
    """Returns height and width of an image after resizing, before the crop."""
    tall, wide = how.target
    if how.mode == "none":
        return height, width
    if how.mode == "stretch":
        return tall, wide
    if how.mode == "shorter" and tall == wide:  # torchvision's Resize
        return (int(tall * height / width), tall) if width <= height else (tall, int(tall * width / height))
    choose = min if how.mode == "shorter" else max  # timm's ResizeKeepRatio
    ratio = choose(height / tall, width / wide)
    return max(1, round(height / ratio)), max(1, round(width / ratio))
