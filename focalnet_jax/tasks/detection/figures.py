"""Draws boxes and masks with names and scores, and predictions next to the ground truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from focalnet_jax.data.cutouts import Cutout, cutout_of_crop
from focalnet_jax.data.drawing import at_least, font_for, in_a_row, shortened
from focalnet_jax.data.geometry import resize

_LEAST, _MOST = 240, 640  # smallest and largest side of an image in a figure, in pixels
_LINE = 1 / 240  # width of the lines as a fraction of the longer side
_OPACITY = 0.4  # of the colour inside a mask
_TAG = 1.25  # height of the coloured area behind a text, relative to the size of the font


@dataclass(frozen=True, eq=False)
class Drawn:
    """Objects that are drawn on an image, the best first.

    Attributes:
      boxes: `[n, 4]` in pixels of the image.
      labels: class of each object, `[n]`.
      scores: score of each object in [0, 1], `[n]`, or None.
      masks: pixels of each object, or None.
    """

    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray | None = None
    masks: Sequence[Cutout] | None = None


def objects_of(batch: Mapping[str, Any], index: int) -> Drawn:
    """Returns the objects of an image of a batch, with their masks if there are any.

    Args:
      batch: `boxes`, `labels`, and optionally `masks` and `frames`, see `Augmentation.apply`.
      index: place of the image in the batch.
    """
    labels = np.asarray(batch["labels"][index])
    used, masks = labels >= 0, None
    if "masks" in batch:
        packed, frames = (np.asarray(batch[name][index])[used] for name in ("masks", "frames"))
        masks = [cutout_of_crop(*crop) for crop in zip(packed, frames, strict=True)]
    return Drawn(np.asarray(batch["boxes"][index])[used], labels[used], None, masks)


def draw_boxes(
    image: np.ndarray, boxes: np.ndarray, texts: Sequence[str], colours: np.ndarray, *, factor: float = 1.0
) -> np.ndarray:
    """Returns an image `[H, W, 3]` uint8 with boxes. Where boxes overlap, the first one is on top.

    Args:
      image: the image.
      boxes: `[n, 4]` in pixels.
      texts: a text for each box, written at its upper left corner; "" for no text.
      colours: colour of each box, `[n, 3]` uint8.
      factor: factor of the coordinates of the boxes, if the image was resized.
    """
    drawn = Image.fromarray(image)
    draw, font = ImageDraw.Draw(drawn), font_for(image.shape[1])
    width = _line_width(image)
    for box, text, colour in reversed(list(zip(boxes * factor, texts, colours.tolist(), strict=True))):
        x1, y1, x2, y2 = box.tolist()
        draw.rectangle((x1, y1, max(x1, x2), max(y1, y2)), outline=tuple(colour), width=width)
        if text:
            text, height = shortened(text, font, max(image.shape[1] - x1, 1)), _TAG * font.size
            top = max(y1 - height, 0)
            right = draw.textbbox((x1 + width, top), text, font=font)[2]
            draw.rectangle((x1, top, right + width, top + height), fill=tuple(colour))
            draw.text((x1 + width, top), text, fill=_ink(colour), font=font)
    return np.asarray(drawn)


def _line_width(image: np.ndarray) -> int:
    return max(1, round(_LINE * max(image.shape[:2])))


def _ink(colour: Sequence[int]) -> str:
    """Returns the text colour, black or white, that is readable on a colour."""
    return "black" if np.dot(colour, (0.299, 0.587, 0.114)) > 128 else "white"


def draw_masks(image: np.ndarray, masks: Sequence[Cutout], colours: np.ndarray, *, factor: float = 1.0) -> np.ndarray:
    """Returns an image `[H, W, 3]` uint8 with translucent masks and opaque outlines, the first object on top.

    Args:
      image: the image.
      masks: pixels of each object.
      colours: colour of each object, `[n, 3]` uint8.
      factor: factor of the coordinates of the masks, if the image was resized.
    """
    drawn, width = image.copy(), _line_width(image)
    # The pixel of the mask that is nearest to each pixel of the image.
    rows, columns = (((np.arange(side) + 0.5) / factor).astype(np.int64) for side in image.shape[:2])
    for mask, colour in reversed(list(zip(masks, colours, strict=True))):
        found = mask.gathered(rows, columns)
        height, length = found.pixels.shape
        part = drawn[found.top : found.top + height, found.left : found.left + length]
        outline = found.pixels & ~_eroded(found.pixels, width)
        part[found.pixels] = np.round((1 - _OPACITY) * part[found.pixels] + _OPACITY * colour.astype(np.float64))
        part[outline] = colour
    return drawn


def _eroded(pixels: np.ndarray, times: int) -> np.ndarray:
    """Erodes a mask `[h, w]` bool: removes the pixels that have a neighbour outside of the object, `times` times."""
    for _ in range(times):
        padded = np.pad(pixels, 1)
        pixels = pixels & padded[2:, 1:-1] & padded[:-2, 1:-1] & padded[1:-1, 2:] & padded[1:-1, :-2]
    return pixels


def draw_objects(
    image: np.ndarray, objects: Drawn, names: Sequence[str], colours: np.ndarray, factor: float = 1.0
) -> np.ndarray:
    """Returns an image `[H, W, 3]` uint8 with objects in the colours of their classes, with names and scores.

    Objects without scores have no names if there is only one class, because the names would only hide objects.

    Args:
      image: the image.
      objects: the objects.
      names: names of the K classes.
      colours: colours of the classes, `[K, 3]` uint8.
      factor: factor of the coordinates of the objects, if the image was resized.
    """
    texts, chosen = [names[label] for label in objects.labels], colours[objects.labels]
    if objects.scores is not None:
        texts = [f"{text} {score:.0%}" for text, score in zip(texts, objects.scores, strict=True)]
    elif len(names) == 1:
        texts = [""] * len(texts)
    if objects.masks is not None:
        image = draw_masks(image, objects.masks, chosen, factor=factor)
    return draw_boxes(image, objects.boxes, texts, chosen, factor=factor)


def comparison_figure(
    image: np.ndarray, found: Drawn, true: Drawn, names: Sequence[str], colours: np.ndarray
) -> np.ndarray:
    """Returns a figure `[H, W, 3]` uint8: an image with its detections, next to the image with its true objects.

    Args:
      image: the image, `[H, W, 3]` uint8.
      found: the detections.
      true: the true objects.
      names: names of the K classes.
      colours: colours of the classes, `[K, 3]` uint8.
    """
    image, factor = _in_limits(image)
    drawn = [draw_objects(image, each, names, colours, factor) for each in (found, true)]
    return in_a_row(drawn, ["prediction", "ground truth"])


def _in_limits(image: np.ndarray) -> tuple[np.ndarray, float]:
    """Resizes an image so that its sides are `_LEAST` to `_MOST` pixels if possible; returns it and the factor."""
    height, width = image.shape[:2]
    factor = min(1.0, _MOST / max(height, width))
    if factor < 1:
        image = resize(image, (max(1, round(height * factor)), max(1, round(width * factor))))
    enlarged = at_least(_LEAST, image, _MOST)
    return enlarged, enlarged.shape[1] / width


def training_figure(image: np.ndarray, objects: Drawn, names: Sequence[str], colours: np.ndarray) -> np.ndarray:
    """Returns a training image `[H, W, 3]` uint8 with its objects. A small image is enlarged.

    The arguments are those of `draw_objects`.
    """
    enlarged = at_least(_LEAST, image)
    return draw_objects(enlarged, objects, names, colours, enlarged.shape[1] / image.shape[1])
