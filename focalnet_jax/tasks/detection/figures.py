"""Draws boxes with names and scores, and predictions beside the ground truth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from focalnet_jax.data.drawing import at_least, font_for, in_a_row, shortened
from focalnet_jax.data.geometry import resize

_LEAST, _MOST = 240, 640  # limits of the sides of an image in a figure, in pixels
_LINE = 1 / 240  # width of the lines as a fraction of the longer side


def draw_boxes(
    image: np.ndarray, boxes: np.ndarray, texts: Sequence[str], colours: np.ndarray, *, factor: float = 1.0
) -> np.ndarray:
    """Returns an image `[H, W, 3]` uint8 with boxes, the last ones below the first ones.

    Args:
      image: the image.
      boxes: `[n, 4]` in pixels.
      texts: a text for each box, written at its upper left; "" for no text.
      colours: colour of each box, `[n, 3]` uint8.
      factor: what the boxes are multiplied by, if the image was resized.
    """
    drawn = Image.fromarray(image)
    draw, font = ImageDraw.Draw(drawn), font_for(image.shape[1])
    width = max(1, round(_LINE * max(image.shape[:2])))
    for box, text, colour in reversed(list(zip(boxes * factor, texts, colours.tolist(), strict=True))):
        x1, y1, x2, y2 = box.tolist()
        draw.rectangle((x1, y1, max(x1, x2), max(y1, y2)), outline=tuple(colour), width=width)
        if text:
            text = shortened(text, font, max(image.shape[1] - x1, 1))
            place = draw.textbbox((x1, max(y1 - 1.3 * font.size, 0)), text, font=font)
            draw.rectangle(place, fill=tuple(colour))
            draw.text(place[:2], text, fill=_ink(colour), font=font, anchor=None)
    return np.asarray(drawn)


def _ink(colour: Sequence[int]) -> str:
    """Returns black or white, which can be read on a colour."""
    return "black" if np.dot(colour, (0.299, 0.587, 0.114)) > 128 else "white"


def draw_detections(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    scores: np.ndarray | None,
    names: Sequence[str],
    colours: np.ndarray,
    factor: float = 1.0,
) -> np.ndarray:
    """Returns an image `[H, W, 3]` uint8 with boxes in the colours of their classes, with names and scores.

    Args:
      image: the image.
      boxes: `[n, 4]` in pixels, the best first.
      labels: class of each box, `[n]`.
      scores: score of each box in [0, 1], `[n]`, or None.
      names: names of the K classes.
      colours: colours of the classes, `[K, 3]` uint8.
      factor: what the boxes are multiplied by, if the image was resized.
    """
    texts = [names[label] for label in labels]
    if scores is not None:
        texts = [f"{text} {score:.0%}" for text, score in zip(texts, scores, strict=True)]
    return draw_boxes(image, boxes, texts, colours[labels], factor=factor)


def comparison_figure(
    image: np.ndarray,
    found: tuple[np.ndarray, np.ndarray, np.ndarray],
    true: tuple[np.ndarray, np.ndarray],
    names: Sequence[str],
    colours: np.ndarray,
) -> np.ndarray:
    """Returns an image with its detections beside the image with its objects.

    Args:
      image: the image, `[H, W, 3]` uint8.
      found: boxes, labels and scores of the detections.
      true: boxes and labels of the objects.
      names: names of the K classes.
      colours: colours of the classes, `[K, 3]` uint8.
    """
    image, factor = _in_limits(image)
    detected = draw_detections(image, *found, names, colours, factor)
    known = draw_detections(image, *true, None, names, colours, factor)
    return in_a_row([detected, known], ["prediction", "ground truth"])


def _in_limits(image: np.ndarray) -> tuple[np.ndarray, float]:
    """Returns an image with sides from `_LEAST` to `_MOST` pixels if possible, and what its sides are multiplied by."""
    height, width = image.shape[:2]
    factor = min(1.0, _MOST / max(height, width))
    if factor < 1:
        image = resize(image, (max(1, round(height * factor)), max(1, round(width * factor))))
    enlarged = at_least(_LEAST, image, _MOST)
    return enlarged, enlarged.shape[1] / width


def training_figure(
    image: np.ndarray, boxes: np.ndarray, labels: np.ndarray, names: Sequence[str], colours: np.ndarray
) -> np.ndarray:
    """Returns a training image `[H, W, 3]` uint8 with its objects, enlarged if it is small.

    The arguments are those of `comparison_figure`.
    """
    enlarged = at_least(_LEAST, image)
    return draw_detections(enlarged, boxes, labels, None, names, colours, enlarged.shape[1] / image.shape[1])
