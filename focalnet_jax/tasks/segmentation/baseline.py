"""Scores of a simple method on a data set, which evaluations compare with the scores of a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Baseline:
    """Scores of a simple method on the examples of a source.

    Attributes:
      method: name of the method.
      ious: intersection over union in percent, by name of the class or union.
      accuracy: percentage of pixels whose class is predicted correctly.
      unions: sets of classes that are also measured as one class, by name of the set.
    """

    method: str
    ious: Mapping[str, float]
    accuracy: float
    unions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def miou(self) -> float:
        """Mean of the IoU of the classes, in percent."""
        return float(np.nanmean([iou for name, iou in self.ious.items() if name not in self.unions]))
