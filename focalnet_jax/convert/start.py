"""Reads the model of a run's initial weights or of evaluated weights, before a model is built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from focalnet_jax.checkpoint.steps import find_checkpoint, read_metadata
from focalnet_jax.convert.files import is_checkpoint
from focalnet_jax.convert.info import WeightsInfo
from focalnet_jax.convert.weights import checkpoint_info, read_weights
from focalnet_jax.data.preprocessing import USUAL
from focalnet_jax.model import FocalNetConfig
from focalnet_jax.model.variants import model_from_metadata


@dataclass(frozen=True)
class Start:
    """The model of weights, and their class names and preprocessing."""

    name: str | None  # the released variant, if it is one
    model: FocalNetConfig
    image_size: int | tuple[int, int]
    classes: tuple[str, ...] | None


def read_start(
    path: str,
    which: str | None,
    head: str,
    name: str | None,
    options: Mapping[str, bool],
    assumed: Mapping[str, bool] | None,
) -> Start:
    """Returns the model of the weights at `path`; arguments and errors as for `read_weights`."""
    if is_checkpoint(path):
        metadata = read_metadata(find_checkpoint(path))
        if metadata.get("model"):
            name, model = model_from_metadata(metadata["model"])
            info = checkpoint_info(metadata)
            return Start(name, model, _size(info), info.classes)
    weights = read_weights(path, name, options, assumed, which=which, head=head, flag="--config.model.")
    return Start(weights.name, weights.config, _size(weights.info), weights.info.classes)


def _size(info: WeightsInfo) -> int | tuple[int, int]:
    height, width = (info.preprocessing or USUAL).size
    return height if height == width else (height, width)
