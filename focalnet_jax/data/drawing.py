"""Images as PNG files, and text that fits below them."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageFont


def encode_png(image: np.ndarray) -> bytes:
    """Returns an image `[H, W, 3]` uint8 as the content of a PNG file."""
    written = io.BytesIO()
    Image.fromarray(image).save(written, "PNG")
    return written.getvalue()


def shortened(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float) -> str:
    """Returns the longest beginning of a text that is at most `width` pixels wide, but at least one character."""
    while font.getlength(text) > width and len(text) > 1:
        text = text[:-1]
    return text
