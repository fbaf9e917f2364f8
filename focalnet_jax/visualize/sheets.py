"""Maps beside their pictures as plain pictures: frames of an animation, and what TensorBoard shows."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from focalnet_jax.visualize.figures import GATES, MODULATOR, BlockMaps, coloured

_CAPTION = 14  # pixels
_LEAST = 112  # of a picture's side, for the names above it


def map_sheets(pictures: Sequence[np.ndarray], maps: Sequence[BlockMaps]) -> list[Image.Image]:
    """Each picture `[H, W, 3]` uint8 beside modulator and gates of one block, all in the same colours.

    The block's name stands above the picture, below each map from where to where its colours go.
    """
    norms = [each.modulator for each in maps]
    most = max(float(np.abs(each.gates).max(initial=0)) for each in maps)
    limits = float(np.min(norms)), float(np.max(norms))
    sheets = []
    for picture, each in zip((at_least(_LEAST, picture) for picture in pictures), maps, strict=True):
        size = picture.shape[:2]
        shown = [(each.modulator, MODULATOR, limits)]
        shown += [(gate, GATES, (-most, most)) for gate in np.moveaxis(each.gates, -1, 0)]
        pixels = [coloured(places, size, colours, ends) for places, colours, ends in shown]
        scales = [scale(size[1], colours, ends) for _, colours, ends in shown]
        names = [each.name or "picture", *each.names]
        sheets.append(side_by_side([picture, *pixels], names, [None, *scales]))
    return sheets


def at_least(side: int, picture: np.ndarray) -> np.ndarray:
    """A picture `[H, W, 3]` with its pixels repeated until both sides are so long, so that they can be seen."""
    times = -(-side // min(picture.shape[:2]))
    return picture.repeat(times, axis=0).repeat(times, axis=1)


def side_by_side(
    pictures: Sequence[np.ndarray], names: Sequence[str], scales: Sequence[Image.Image | None]
) -> Image.Image:
    """Pictures `[H, W, 3]` in a row, each below its name and above its scale, if it has one."""
    height, width, _ = pictures[0].shape
    sheet = Image.new("RGB", (width * len(pictures), _CAPTION + height + _CAPTION), "white")
    draw = ImageDraw.Draw(sheet)
    for place, (picture, name, strip) in enumerate(zip(pictures, names, scales, strict=True)):
        sheet.paste(Image.fromarray(picture), (place * width, _CAPTION))
        draw.text((place * width + 2, 1), name, fill="black", font=_font())
        if strip is not None:
            sheet.paste(strip, (place * width, _CAPTION + height))
    return sheet


def scale(width: int, colours: str, limits: tuple[float, float]) -> Image.Image:
    """A strip of colours between the numbers they stand for."""
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
