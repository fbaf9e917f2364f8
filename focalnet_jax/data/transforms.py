"""Crop, flip and augmentation of one picture on the host: `[H, W, 3]` uint8 in, `[S, S, 3]` uint8 out.

Resampling is Pillow's, bicubic with antialiasing, which the published recipes used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from focalnet_jax.data.pixels import resize
from focalnet_jax.data.policies import Augment
from focalnet_jax.errors import UserError

_CROP_ATTEMPTS = 10

TrainTransform = Callable[[np.ndarray, np.random.Generator], np.ndarray]
EvalTransform = Callable[[np.ndarray], np.ndarray]


def random_resized_crop_box(
    width: int, height: int, scale: tuple[float, float], ratio: tuple[float, float], rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """A crop `(left, top, right, bottom)` of random area and log-uniform aspect ratio.

    torchvision's RandomResizedCrop: ten attempts, then a centred crop with the ratio clamped to the range.
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
    size: int,
    crop_scale: tuple[float, float],
    crop_ratio: tuple[float, float],
    flip: float,
    augments: Sequence[Augment] = (),
) -> TrainTransform:
    """Random-resized-crop to `size`, a horizontal flip with probability `flip`, then `augments` in their order."""

    def transform(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        height, width, _ = image.shape
        box = random_resized_crop_box(width, height, crop_scale, crop_ratio, rng)
        image = resize(image, box, (size, size), (0, 0, size), mirrored=rng.random() < flip)
        for augment in augments:
            image = augment(image, rng)
        return image

    return transform


def eval_transform(size: int, resized: int | None = None) -> EvalTransform:
    """Shorter side to `resized` (256/224 of `size` by default), then the centre crop."""
    shorter = int(256 / 224 * size) if resized is None else resized
    if shorter < size:
        raise UserError(f"data.eval_resize={shorter} is smaller than data.image_size={size}; nothing to crop from")

    def transform(image: np.ndarray) -> np.ndarray:
        height, width, _ = image.shape
        box = (0, 0, width, height)
        if width <= height:
            width, height = shorter, int(shorter * height / width)
        else:
            width, height = int(shorter * width / height), shorter
        left, top = round((width - size) / 2), round((height - size) / 2)
        return resize(image, box, (width, height), (left, top, size))

    return transform
