"""Draws images and their maps side by side, for the frames of animations and for TensorBoard."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from focalnet_jax.data.drawing import at_least
from focalnet_jax.visualize.figures import GATES, MODULATOR, BlockMaps, coloured

_CAPTION = 14  # height in pixels
_LEAST = 112  # smallest side of an image in pixels, so that names fit above it


def map_sheets(images: Sequence[np.ndarray], maps: Sequence[BlockMaps]) -> list[Image.Image]:
    """Returns, for each image `[H, W, 3]` uint8, a sheet with the image, the modulator and the gates of one block.

    All sheets have the same colour scales. The block's name is above the image; each map has its colour scale below it.
    """
    norms = [each.modulator for each in maps]
    most = max(float(np.abs(each.gates).max(initial=0)) for each in maps)
    limits = float(np.min(norms)), float(np.max(norms))
    sheets = []
    for image, each in zip((at_least(_LEAST, image) for image in images), maps, strict=True):
        size = image.shape[:2]
        shown = [(each.modulator, MODULATOR, limits)]
        shown += [(gate, GATES, (-most, most)) for gate in np.moveaxis(each.gates, -1, 0)]
        pixels = [coloured(values, size, colours, ends) for values, colours, ends in shown]
        scales = [scale(size[1], colours, ends) for _, colours, ends in shown]
        names = [each.name or "image", *each.names]
        sheets.append(side_by_side([image, *pixels], names, [None, *scales]))
    return sheets


def side_by_side(
    images: Sequence[np.ndarray], names: Sequence[str], scales: Sequence[Image.Image | None]
) -> Image.Image:
    """Returns images `[H, W, 3]` in a row. Each has its name above it, and its colour scale, if any, below it."""
    height, width, _ = images[0].shape
    sheet = Image.new("RGB", (width * len(images), _CAPTION + height + _CAPTION), "white")
    draw = ImageDraw.Draw(sheet)
    for column, (image, name, strip) in enumerate(zip(images, names, scales, strict=True)):
        sheet.paste(Image.fromarray(image), (column * width, _CAPTION))
        draw.text((column * width + 2, 1), name, fill="black", font=_font())
        if strip is not None:
            sheet.paste(strip, (column * width, _CAPTION + height))
    return sheet


def scale(width: int, colours: str, limits: tuple[float, float]) -> Image.Image:
    """Returns a colour scale of `width` pixels, a strip of colours between the numbers in `limits`."""
    strip = Image.new("RGB", (width, _CAPTION), "white")
    draw, texts = ImageDraw.Draw(strip), [f"{limit:.2g}" for limit in limits]
    left, right = (round(draw.textlength(text, font=_font())) + 4 for text in texts)
    draw.text((2, 1), texts[0], fill="black", font=_font())
    draw.text((width - right + 2, 1), texts[1], fill="black", font=_font())
    size = _CAPTION - 6, max(1, width - left - right)
    strip.paste(Image.fromarray(coloured(np.linspace(*limits, 64)[None], size, colours, limits)), (left, 3))
    return strip


@cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=10)
