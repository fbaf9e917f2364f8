"""Maps beside their pictures as plain pictures: frames of an animation, and what TensorBoard shows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from focalnet_jax.visualize.figures import GATES, MODULATOR, BlockMaps, coloured, gate_names

_CAPTION = 14  # pixels


def map_sheets(pictures: Sequence[np.ndarray], maps: Sequence[BlockMaps]) -> list[Image.Image]:
    """Each picture `[H, W, 3]` uint8 beside modulator and gates of one block, all in the same colours."""
    norms = [each.modulator for each in maps]
    most = max(float(np.abs(each.gates).max()) for each in maps)
    limits = float(np.min(norms)), float(np.max(norms))
    names = ["picture", "modulator", *(f"gate, {name}" for name in gate_names(maps[0].gates.shape[-1]))]
    sheets = []
    for picture, each in zip(pictures, maps, strict=True):
        size = picture.shape[:2]
        gates = [coloured(gate, size, GATES, (-most, most)) for gate in np.moveaxis(each.gates, -1, 0)]
        modulator = coloured(each.modulator, size, MODULATOR, limits)
        sheets.append(side_by_side([picture, modulator, *gates], names))
    return sheets


def side_by_side(pictures: Sequence[np.ndarray], names: Sequence[str]) -> Image.Image:
    """Pictures `[H, W, 3]` in a row, each below its name."""
    height, width, _ = pictures[0].shape
    sheet = Image.new("RGB", (width * len(pictures), height + _CAPTION), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=10)
    for place, (picture, name) in enumerate(zip(pictures, names, strict=True)):
        sheet.paste(Image.fromarray(picture), (place * width, _CAPTION))
        draw.text((place * width + 2, 1), name, fill="black", font=font)
    return sheet
