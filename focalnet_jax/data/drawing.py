"""Encodes and enlarges images, and shortens text to the width of an image."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageFont


def encode_png(image: np.ndarray) -> bytes:
    """Encodes an image `[H, W, 3]` uint8 as PNG and returns the bytes."""
    written = io.BytesIO()
    Image.fromarray(image).save(written, "PNG")
    return written.getvalue()


def at_least(side: int, image: np.ndarray, most: int | None = None) -> np.ndarray:
    """Returns an image `[H, W, 3]` enlarged by repeating pixels, so that both sides have at least `side` pixels.

    No side becomes longer than `most` pixels, even if the other side is shorter than `side` then.
    """
    times = -(-side // min(image.shape[:2]))
    if most is not None:
        times = max(1, min(times, most // max(image.shape[:2])))
    return image.repeat(times, axis=0).repeat(times, axis=1)


def shortened(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float) -> str:
    """Cuts off the end of a string until it is at most `width` pixels wide or has only one character."""
    while font.getlength(text) > width and len(text) > 1:
        text = text[:-1]
    return text
