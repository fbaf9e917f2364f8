"""Maps beside their pictures as plain pictures: frames of an animation, and what TensorBoard shows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from focalnet_jax.visualize.figures import GATES, MODULATOR, BlockMaps, coloured

_CAPTION = 14  # pixels
_LEAST = 112  # of a picture's side, for the names above it


def map_sheets(pictures: Sequence[np.ndarray], maps: Sequence[BlockMaps]) -> list[Image.Image]:
    """Each picture `[H, W, 3]` uint8 beside modulator and gates of one block, all in the same colours.

    The block's name stands above the picture.
    """
    norms = [each.modulator for each in maps]
    most = max(float(np.abs(each.gates).max(initial=0)) for each in maps)
    limits = float(np.min(norms)), float(np.max(norms))
    sheets = []
    for picture, each in zip((at_least(_LEAST, picture) for picture in pictures), maps, strict=True):
        size = picture.shape[:2]
        gates = [coloured(gate, size, GATES, (-most, most)) for gate in np.moveaxis(each.gates, -1, 0)]
        modulator = coloured(each.modulator, size, MODULATOR, limits)
        sheets.append(side_by_side([picture, modulator, *gates], [each.name or "picture", *each.names]))
    return sheets


def at_least(side: int, picture: np.ndarray) -> np.ndarray:
    """A picture `[H, W, 3]` with its pixels repeated until both sides are so long, so that they can be seen."""
    times = -(-side // min(picture.shape[:2]))
    return picture.repeat(times, axis=0).repeat(times, axis=1)


def side_by_side(pictures: Sequence[np.ndarray], names: Sequence[str]) -> Image.Image:
    """Pictures `[H, W, 3]` in a row, each below its name."""
    height, width, _ = pictures[0].shape
    sheet = Image.new("RGB", (width * len(pictures), height + _CAPTION), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=10)
    for place, (picture, name) in enumerate(zip(pictures, names, strict=True)):
        sheet.paste(Image.fromarray(picture), (place * width, _CAPTION))
        draw.text((place * width + 2, 1), name, fill="black", font=font)
    return sheet
