"""The most probable classes of an image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from focalnet_jax.data.drawing import shortened

_LEAST_WIDTH, _LINE, _MARGIN = 240, 16, 6  # pixels
_FONT_SIZE = 13


@dataclass(frozen=True)
class ClassPrediction:
    """`Prediction` of the most probable classes of an image, the most probable first.

    Attributes:
      labels: full names of the classes.
      names: short and distinct names of the classes.
      probabilities: probabilities in [0, 1].
    """

    labels: tuple[str, ...]
    names: tuple[str, ...]
    probabilities: tuple[float, ...]

    def line(self) -> str:
        """Returns short names and probabilities in one line."""
        return ", ".join(f"{name} {share:.1%}" for name, share in zip(self.names, self.probabilities, strict=True))

    def json(self) -> dict[str, Any]:
        """Returns `classes`, a list of objects with `label` and `probability`."""
        pairs = zip(self.labels, self.probabilities, strict=True)
        return {"classes": [{"label": label, "probability": share} for label, share in pairs]}

    def scores(self) -> dict[str, float]:
        """Returns probabilities by the short names of the classes."""
        return dict(zip(self.names, self.probabilities, strict=True))

    def draw(self, image: np.ndarray) -> np.ndarray:
        """Returns the image `[H, W, 3]` uint8 and, below the image, a bar, a name and a probability per class."""
        height, width = image.shape[:2]
        wide = max(width, _LEAST_WIDTH)
        sheet = Image.new("RGB", (wide, height + _LINE * len(self.names) + 2 * _MARGIN), "white")
        sheet.paste(Image.fromarray(image), ((wide - width) // 2, 0))
        draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=_FONT_SIZE)
        for row, (name, share) in enumerate(zip(self.names, self.probabilities, strict=True)):
            top = height + _MARGIN + row * _LINE
            draw.rectangle((0, top, round(share * wide), top + _LINE - 2), fill="#bcd7f0")
            text = shortened(f"{share:.1%} {name}", font, wide - _MARGIN)
            draw.text((_MARGIN // 2, top), text, fill="black", font=font)
        return np.asarray(sheet)

    def files(self) -> dict[str, bytes]:
        """Returns an empty dict: the whole prediction is in the result of `draw`."""
        return {}
