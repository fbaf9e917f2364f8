"""Decoding and augmentation of one picture on the host, uint8 in and out.

Pillow does the pixels, so that resampling is what the published recipes used: bicubic with antialiasing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from focalnet_jax.errors import UserError

MAX_PIXELS = 100_000_000  # a larger picture is refused before it is decoded: it would take the host's memory
_CROP_ATTEMPTS = 10

TrainTransform = Callable[[Image.Image, np.random.Generator], np.ndarray]
EvalTransform = Callable[[Image.Image], np.ndarray]


def to_image(picture: np.ndarray | Path) -> Image.Image:
    """A decoded array or a file as an RGB image.

    Grey, palette and CMYK become RGB, transparency is dropped, 16-bit grey is scaled to 8 bits. EXIF orientation is not
    applied, as in torchvision and timm.

    Raises:
      UserError: the file cannot be read or decoded, or has more than `MAX_PIXELS`; names the file.
    """
    if isinstance(picture, np.ndarray):
        return Image.fromarray(picture)
    try:
        with Image.open(picture) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UserError(
                    f"{picture} has {image.width}x{image.height} pixels; at most {MAX_PIXELS:,} are decoded: "
                    "shrink or remove it"
                )
            if image.mode in ("I", "F"):
                raise UserError(f"{picture} has 32 bits a pixel, whose range is not known: convert it to 8 or 16 bits")
            if image.mode.startswith("I;16"):
                grey = np.asarray(image, dtype=np.float32) * (255 / 65535)
                return Image.fromarray(np.clip(np.round(grey), 0, 255).astype(np.uint8)).convert("RGB")
            if "transparency" in image.info:  # by way of RGBA, as Pillow asks for palettes
                image = image.convert("RGBA")
            return image.convert("RGB")
    except (OSError, SyntaxError, ValueError, RuntimeError, Image.DecompressionBombError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"cannot read image {picture} ({error}): repair or remove it") from error


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
    size: int, crop_scale: tuple[float, float], crop_ratio: tuple[float, float], flip: float
) -> TrainTransform:
    """Random-resized-crop to `[size, size, 3]` uint8 and a horizontal flip with probability `flip`."""

    def transform(image: Image.Image, rng: np.random.Generator) -> np.ndarray:
        box = random_resized_crop_box(image.width, image.height, crop_scale, crop_ratio, rng)
        image = image.crop(box).resize((size, size), Image.Resampling.BICUBIC)
        if rng.random() < flip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return np.asarray(image)

    return transform


def eval_transform(size: int, resize: int | None = None) -> EvalTransform:
    """Shorter side to `resize` (256/224 of `size` by default), then the centre crop `[size, size, 3]` uint8."""
    shorter = int(256 / 224 * size) if resize is None else resize
    if shorter < size:
        raise UserError(f"data.eval_resize={shorter} is smaller than data.image_size={size}; nothing to crop from")

    def transform(image: Image.Image) -> np.ndarray:
        width, height = image.size
        if width <= height:
            width, height = shorter, int(shorter * height / width)
        else:
            width, height = int(shorter * width / height), shorter
        left, top = round((width - size) / 2), round((height - size) / 2)
        if width * height > MAX_PIXELS:
            # A thin picture would not fit into memory resized: compute only what the crop keeps. Rounding may differ
            # by a grey level, so other pictures go the way the published numbers were measured.
            x, y = image.width / width, image.height / height
            box = (left * x, top * y, (left + size) * x, (top + size) * y)
            return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, box=box))
        image = image.resize((width, height), Image.Resampling.BICUBIC)
        return np.asarray(image.crop((left, top, left + size, top + size)))

    return transform
