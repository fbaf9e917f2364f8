"""Draws modulators and gates of some validation images for TensorBoard, at every evaluation of a run."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from PIL import Image

from focalnet_jax.errors import UserError
from focalnet_jax.training.first_images import FirstImages
from focalnet_jax.training.state import TrainSpec, Variables, merge_model
from focalnet_jax.visualize.maps import look_at_modulation, map_names

_SIDE = 112  # height of a map in pixels


class MapsLog(FirstImages):
    """Draws the maps of some validation images, one sheet per image with one row per stage.

    Args:
      spec: `TrainSpec` of the run.
      count: number of images, limited by the size of a batch; 0 for no maps.
    """

    def __init__(self, spec: TrainSpec, count: int):
        def look(variables: Variables, batch: dict[str, jax.Array]) -> tuple[jax.Array, list[dict[str, jax.Array]]]:
            stages = look_at_modulation(self._backbone(variables), spec.task.inputs(batch))
            # Only the maps of each stage's last block are kept: [B, h, w] and [B, h, w, L + 1].
            return batch["image"], [jax.tree.map(lambda maps: maps[-1], stage) for stage in stages]

        super().__init__(spec, count, look)

    def _backbone(self, variables: Variables) -> Any:
        """Returns the FocalNet inside the model."""
        model = merge_model(self.spec.graph, variables)
        for name in filter(None, self.spec.task.backbone.split("/")):
            model = getattr(model, name)
        return model

    def draw(self, variables: Variables) -> dict[str, np.ndarray]:
        """Returns sheets `[H, W, 3]` uint8 by name, for images of the batch that `watch` kept.

        Returns {} if no batch was kept. All processes must call this method.
        """
        arrays = self.arrays(variables)
        if arrays is None:
            return {}
        images, stages = arrays
        pictures = [_small(image) for image in images]
        config = self._backbone(variables).config
        rows = [
            _row(pictures, stage["modulator"], stage["gates"], number, map_names(config, number))
            for number, stage in enumerate(stages)
        ]
        sheets = [np.concatenate(sheet) for sheet in zip(*rows, strict=True)]
        return {f"maps/picture_{number}": sheet for number, sheet in enumerate(sheets, 1)}


def check_maps(count: int, writers: Sequence[str]) -> None:
    """Raises `UserError` if maps are requested, but TensorBoard is not among `writers` or matplotlib is missing."""
    if count and "tensorboard" not in writers:
        raise UserError(f"log_maps={count} needs TensorBoard, but writers={writers}: add tensorboard to writers")
    if count and not importlib.util.find_spec("matplotlib"):
        raise UserError(f"log_maps={count} needs matplotlib: pip install 'focalnet_jax[viz]', or leave log_maps out")


def _small(picture: np.ndarray) -> np.ndarray:
    size = round(_SIDE * picture.shape[1] / picture.shape[0]), _SIDE
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC))


def _row(
    pictures: Sequence[np.ndarray], modulators: np.ndarray, gates: np.ndarray, stage: int, names: tuple[str, ...]
) -> list[np.ndarray]:
    from focalnet_jax.visualize.figures import BlockMaps  # matplotlib is optional
    from focalnet_jax.visualize.sheets import map_sheets

    maps = [BlockMaps(f"stage {stage + 1}, last block", *each, names) for each in zip(modulators, gates, strict=True)]
    return [np.asarray(sheet) for sheet in map_sheets(pictures, maps)]
