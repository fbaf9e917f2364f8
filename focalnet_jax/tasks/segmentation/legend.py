"""Draws classes over images, and legends of the classes' colours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from focalnet_jax.data.drawing import font_for, shortened
from focalnet_jax.data.geometry import Placement
from focalnet_jax.data.masks import IGNORED

_STRIPE = 4  # width of the stripes on ignored pixels
_CELL = 12  # width of an entry of a legend, in font sizes


@dataclass(frozen=True)
class Entry:
    """An entry of a legend.

    Attributes:
      text: text of the entry, such as the name of a class and its share.
      colour: red, green and blue of the sample; None: a striped sample, for ignored pixels; (): no sample.
    """

    text: str
    colour: tuple[int, ...] | None = ()


def class_shares(classes: np.ndarray) -> list[tuple[int, float]]:
    """Returns each class in a map `[H, W]` uint8 with its fraction of the pixels, the largest fraction first.

    Ignored pixels are counted like a class.
    """
    counts = np.bincount(classes.ravel(), minlength=IGNORED + 1)
    order = np.argsort(-counts, kind="stable")
    return [(int(each), float(counts[each] / classes.size)) for each in order if counts[each]]


def legend_entries(classes: np.ndarray, names: Sequence[str], colours: np.ndarray) -> list[Entry]:
    """Returns an entry for each class in a map `[H, W]` uint8, with its share, the largest first; ignored pixels last.

    Args:
      classes: class numbers, and `IGNORED`.
      names: names of the K classes.
      colours: colours of the classes, `[K, 3]` uint8.
    """
    shares = sorted(class_shares(classes), key=lambda each: each[0] == IGNORED)
    return [
        Entry(f"ignored  {share:.1%}", None)
        if each == IGNORED
        else Entry(f"{names[each]}  {share:.1%}", tuple(colours[each].tolist()))
        for each, share in shares
    ]


def draw_classes(image: np.ndarray, classes: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Returns an image `[H, W, 3]` uint8 blended with the colours of its classes. Ignored pixels get white stripes.

    Args:
      image: the image.
      classes: class numbers `[h, w]` uint8 of the image; resized by nearest neighbour if the sizes differ.
      colours: colours of the K classes, `[K, 3]` uint8.
    """
    if classes.shape != image.shape[:2]:
        classes = Placement(image.shape[:2], 0, 0, image.shape[:2]).labels(classes)
    drawn, known = image.copy(), classes != IGNORED
    drawn[known] = (image[known] >> 1) + (colours[classes[known]] >> 1)
    striped = ~known & _stripes(classes.shape)
    drawn[striped] = (image[striped] >> 1) + 128
    return drawn


def _stripes(shape: tuple[int, int]) -> np.ndarray:
    return (np.add.outer(np.arange(shape[0]), np.arange(shape[1])) // _STRIPE) % 2 == 0


def with_legend(image: np.ndarray, entries: Sequence[Entry], rows: int | None = None) -> np.ndarray:
    """Returns an image `[H, W, 3]` uint8 with a legend below it.

    Args:
      image: the image.
      entries: entries of the legend, placed row by row.
      rows: number of rows. If the entries do not fit, the last cell shows the number of omitted entries. By default,
        there are enough rows for all entries.
    """
    width = image.shape[1]
    font = font_for(width)
    columns = max(1, width // (_CELL * round(font.size)))
    if rows is None:
        rows = -(-len(entries) // columns)
    elif len(entries) > rows * columns:
        shown = rows * columns - 1
        entries = [*entries[:shown], Entry(f"and {len(entries) - shown} more")]
    line, cell = round(1.4 * font.size), width / columns
    sheet = Image.new("RGB", (width, image.shape[0] + rows * line + line // 2), "white")
    sheet.paste(Image.fromarray(image))
    draw = ImageDraw.Draw(sheet)
    for place, entry in enumerate(entries):
        row, column = divmod(place, columns)
        left, top = round(column * cell), image.shape[0] + line // 4 + row * line
        side = round(font.size) if entry.colour != () else 0
        if side:
            sheet.paste(_sample(side, entry.colour), (left + 2, top + 1))
        space = cell - side - 8
        draw.text((left + side + 5, top), shortened(entry.text, font, space), fill="black", font=font)
    return np.asarray(sheet)


def _sample(side: int, colour: tuple[int, ...] | None) -> Image.Image:
    """Returns a square in a colour, framed so that it is visible on white; striped if the colour is None."""
    pixels = np.full((side, side, 3), 255 if colour is None else colour, np.uint8)
    if colour is None:
        pixels[_stripes((side, side))] = 160
    pixels[[0, -1]] = pixels[:, [0, -1]] = 96
    return Image.fromarray(pixels)
