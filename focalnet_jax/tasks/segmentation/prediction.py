"""The predicted class of every pixel of an image."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image

from focalnet_jax.data.drawing import at_least
from focalnet_jax.tasks.segmentation.legend import class_shares, draw_classes, legend_entries, with_legend

_LEAST_SIDE, _MOST_SIDE = 240, 4096  # smallest and largest side of an enlarged image in pixels, for a readable legend


@dataclass(frozen=True, eq=False)
class SegmentPrediction:
    """`Prediction` of the class of every pixel.

    Attributes:
      classes: class numbers `[H, W]` uint8, in the size of the image.
      labels: full names of the K classes.
      names: short and distinct names of the classes.
      colours: colours of the classes, `[K, 3]` uint8.
      most: largest number of classes in `line` and `scores`.
    """

    classes: np.ndarray
    labels: tuple[str, ...]
    names: tuple[str, ...]
    colours: np.ndarray
    most: int

    @cached_property
    def shares(self) -> list[tuple[int, float]]:
        """Classes that occur and their fractions of the pixels, the largest first."""
        return class_shares(self.classes)

    def line(self) -> str:
        """Returns the largest classes and their shares of the pixels in one line, and the number of other classes."""
        parts = [f"{name} {share:.1%}" for name, share in self.scores().items()]
        others = len(self.shares) - len(parts)
        return ", ".join([*parts, f"{others} more"] if others else parts)

    def json(self) -> dict[str, Any]:
        """Returns `size` (height and width) and `classes`, a list of objects with `class`, `label` and `share`.

        All classes that occur are listed. `class` is the class number, which is also the value in the mask file.
        """
        classes = [{"class": each, "label": self.labels[each], "share": share} for each, share in self.shares]
        return {"size": list(self.classes.shape), "classes": classes}

    def scores(self) -> dict[str, float]:
        """Returns the shares of the pixels of the `most` largest classes, by short name."""
        return {self.names[each]: share for each, share in self.shares[: self.most]}

    def draw(self, image: np.ndarray) -> np.ndarray:
        """Returns the image `[H, W, 3]` uint8 blended with the colours of its classes, above a legend.

        A small image is enlarged.
        """
        image = at_least(_LEAST_SIDE, image, _MOST_SIDE)
        entries = legend_entries(self.classes, self.names, self.colours)
        return with_legend(draw_classes(image, self.classes, self.colours), entries)

    def files(self) -> dict[str, bytes]:
        """Returns `masks`: a palette PNG of the size of the image, whose values are class numbers."""
        mask = Image.fromarray(self.classes)
        mask.putpalette(self.colours.tobytes())
        written = io.BytesIO()
        mask.save(written, "PNG", bits=8)  # Pillow would use fewer bits for few classes
        return {"masks": written.getvalue()}
