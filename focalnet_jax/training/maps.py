"""Draws modulators and gates of some validation images for TensorBoard, at every evaluation of a run."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from PIL import Image

from focalnet_jax.data.host import Batch
from focalnet_jax.distributed.mesh import compiler_options, put_batch, replicated
from focalnet_jax.errors import UserError
from focalnet_jax.training.state import TrainSpec, Variables, merge_model
from focalnet_jax.visualize.maps import look_at_modulation, map_names

_SIDE = 112  # height of a map in pixels


class MapsLog:
    """Draws the maps of the first validation images, one sheet per image with one row per stage.

    Args:
      spec: `TrainSpec` of the run.
      count: number of images, limited by the size of a batch; 0 for no maps.
    """

    def __init__(self, spec: TrainSpec, count: int):
        self.spec, self.count = spec, count
        self._batch: Batch | None = None
        mesh = spec.mesh

        def look(variables: Variables, batch: dict[str, jax.Array]) -> list[dict[str, jax.Array]]:
            with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
                backbone = self._backbone(variables)
                stages = look_at_modulation(backbone, spec.task.inputs(batch))
            # The model processes the whole batch, because model and batch may be sharded. Only the maps of each stage's
            # last block are kept, for the first images: [n, h, w] and [n, h, w, L + 1].
            shown = {name: batch[name][:count] for name in ("image", "mask")}
            return [shown, *(jax.tree.map(lambda maps: maps[-1, :count], stage) for stage in stages)]

        self._look = jax.jit(look, out_shardings=replicated(mesh), compiler_options=compiler_options(mesh))

    def watch(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Yields the batches of an evaluation and keeps the first one."""
        for number, batch in enumerate(batches):
            if number == 0 and self.count:
                self._batch = batch
            yield batch

    def _backbone(self, variables: Variables) -> Any:
        """Returns the FocalNet inside the model."""
        model = merge_model(self.spec.graph, variables)
        for name in filter(None, self.spec.task.backbone.split("/")):
            model = getattr(model, name)
        return model

    def draw(self, variables: Variables) -> dict[str, np.ndarray]:
        """Returns sheets `[H, W, 3]` uint8 by name, for the first images of the batch that `watch` kept.

        Returns {} if no batch was kept. All processes must call this method.
        """
        if self._batch is None:
            return {}
        shown, *stages = jax.device_get(self._look(variables, put_batch(self._batch, self.spec.mesh)))
        self._batch = None  # frees a whole batch of images
        real = shown["mask"] > 0
        pictures = [_small(picture) for picture in shown["image"][real]]
        config = self._backbone(variables).config
        rows = [
            _row(pictures, stage["modulator"][real], stage["gates"][real], number, map_names(config, number))
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
