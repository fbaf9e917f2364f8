"""Draws predictions next to the ground truth for some validation images, at every evaluation of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from focalnet_jax.tasks.task import Evaluation
from focalnet_jax.training.first_images import FirstImages
from focalnet_jax.training.state import TrainSpec, Variables, merge_model

PREDICTIONS = "predictions.png"  # file in the workdir with the images of the newest evaluation, for reports


class PredictionsLog(FirstImages):
    """Draws the predictions for some validation images.

    Args:
      spec: `TrainSpec` of the run.
      evaluation: evaluation that predicts and draws.
      count: number of images, limited by the size of a batch; 0 for no images.
    """

    def __init__(self, spec: TrainSpec, evaluation: Evaluation, count: int):
        self.evaluation = evaluation

        def predict(variables: Variables, batch: dict[str, jax.Array]) -> Any:
            return evaluation.predict(merge_model(spec.graph, variables), batch)

        super().__init__(spec, count, predict)

    def draw(self, variables: Variables) -> dict[str, np.ndarray]:
        """Returns images `[H, W, 3]` uint8 by name, for images of the batch that `watch` kept.

        Returns {} if no batch was kept. All processes must call this method.
        """
        predicted = self.arrays(variables)
        count = 0 if predicted is None else len(jax.tree.leaves(predicted)[0])
        return {f"predictions/picture_{index + 1}": self.evaluation.draw(predicted, index) for index in range(count)}


def stacked(images: Sequence[np.ndarray]) -> np.ndarray:
    """Stacks images `[H, W, 3]` uint8 vertically into one image. Narrower images are padded with white."""
    width = max(image.shape[1] for image in images)
    return np.concatenate(
        [np.pad(image, ((0, 8), (0, width - image.shape[1]), (0, 0)), constant_values=255) for image in images]
    )
