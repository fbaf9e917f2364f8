"""Encodes and enlarges images, draws them side by side with titles, and shortens text to the width of an image."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_LEAST_FONT, _FONT_SHARE = 12, 1 / 64  # smallest font size in pixels; font size as a fraction of the width
_GAP = 4  # pixels between images


def encode_png(image: np.ndarray) -> bytes:
    """Encodes an image `[H, W, 3]` uint8 as PNG and returns the bytes."""
    written = io.BytesIO()
    Image.fromarray(image).save(written, "PNG")
    return written.getvalue()


def at_least(side: int, image: np.ndarray, most: int | None = None) -> np.ndarray:
    """Returns an image `[H, W, 3]` enlarged by repeating pixels, so that both sides have at least `side` pixels.

    The image is not enlarged beyond `most` pixels on its longer side, even if its shorter side then stays below `side`.
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


def in_a_row(images: Sequence[np.ndarray], titles: Sequence[str] = ()) -> np.ndarray:
    """Returns images `[H, W, 3]` uint8 of the same size side by side on white, each with its title above it."""
    height, width, _ = images[0].shape
    font = font_for(width * len(images))
    top = round(1.5 * font.size) if titles else 0
    sheet = Image.new("RGB", (len(images) * (width + _GAP) - _GAP, top + height), "white")
    draw = ImageDraw.Draw(sheet)
    for column, image in enumerate(images):
        sheet.paste(Image.fromarray(image), (column * (width + _GAP), top))
    for column, title in enumerate(titles):
        draw.text((column * (width + _GAP) + 2, 0), shortened(title, font, width), fill="black", font=font)
    return np.asarray(sheet)


def font_for(width: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Returns a font that is readable in an image of `width` pixels."""
    return ImageFont.load_default(size=max(_LEAST_FONT, round(_FONT_SHARE * width)))
