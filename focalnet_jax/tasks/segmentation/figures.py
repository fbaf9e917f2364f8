"""Figures of an image with its true classes: an augmented training image, or a prediction with the ground truth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from focalnet_jax.data.drawing import at_least, in_a_row
from focalnet_jax.data.geometry import resize
from focalnet_jax.data.masks import IGNORED
from focalnet_jax.tasks.segmentation.legend import Entry, draw_classes, legend_entries, with_legend

_LEAST, _MOST = 160, 384  # smallest and largest side of an image in a figure, in pixels
_ROWS = 3  # rows of every legend, so that all figures of a batch have the same size


def training_figure(image: np.ndarray, mask: np.ndarray, names: Sequence[str], colours: np.ndarray) -> np.ndarray:
    """Returns an image next to the same image with its classes drawn over it, above a legend with a fixed height.

    Args:
      image: the image, `[H, W, 3]` uint8.
      mask: class numbers of the image, `[H, W]` uint8, and `IGNORED`.
      names: names of the K classes.
      colours: colours of the classes, `[K, 3]` uint8.
    """
    image = at_least(_LEAST, image)
    pair = in_a_row([image, draw_classes(image, mask, colours)])
    return with_legend(pair, legend_entries(mask, names, colours), _ROWS)


def comparison_figure(
    image: np.ndarray, predicted: np.ndarray, mask: np.ndarray, names: Sequence[str], colours: np.ndarray
) -> np.ndarray:
    """Returns an image, its predicted classes and its true classes side by side, and a legend with the classes' IoU.

    The arguments are those of `training_figure`, except that the mask and the predicted classes `[h, w]` uint8 may
    differ from the image in size.
    """
    height, width = mask.shape
    factor = min(1.0, _MOST / max(height, width))
    image = resize(image, (max(1, round(height * factor)), max(1, round(width * factor))))
    image = at_least(_LEAST, image, _MOST)
    drawn = [draw_classes(image, classes, colours) for classes in (predicted, mask)]
    row = in_a_row([image, *drawn], ["image", "prediction", "ground truth"])
    return with_legend(row, _overlaps(predicted, mask, names, colours))


def _overlaps(predicted: np.ndarray, mask: np.ndarray, names: Sequence[str], colours: np.ndarray) -> list[Entry]:
    """Returns an entry for each predicted or true class with its IoU in the image, the largest true class first."""
    known = mask != IGNORED
    true, found = (np.bincount(each[known], minlength=len(names)) for each in (mask, predicted))
    both = np.bincount(mask[known & (mask == predicted)], minlength=len(names))
    union = true + found - both
    order = [each for each in np.argsort(-true, kind="stable") if union[each]]
    entries = [
        Entry(f"{names[each]}  IoU {both[each] / union[each]:.0%}", tuple(colours[each].tolist())) for each in order
    ]
    return entries if known.all() else [*entries, Entry(f"ignored  {1 - known.mean():.1%}", None)]
