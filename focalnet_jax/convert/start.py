"""Reads the architecture, input size and class names stored with weights, before a model is built.

The weights are the initial weights of a run (`init_from`) or weights to evaluate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from focalnet_jax.checkpoint.steps import find_checkpoint, read_metadata
from focalnet_jax.convert.checkpoint_metadata import checkpoint_info
from focalnet_jax.convert.files import is_checkpoint
from focalnet_jax.convert.info import WeightsInfo
from focalnet_jax.convert.weights import read_weights
from focalnet_jax.data.preprocessing import USUAL
from focalnet_jax.model import FocalNetConfig
from focalnet_jax.model.variants import model_from_metadata


@dataclass(frozen=True)
class Start:
    """The architecture, input size and class names stored with weights."""

    name: str | None  # name of the released variant, or None
    model: FocalNetConfig
    image_size: int | tuple[int, int]  # in pixels; a pair is (height, width)
    classes: tuple[str, ...] | None  # names in class order, or None if they are unknown


def read_start(
    path: str,
    which: str | None,
    head: str,
    name: str | None,
    options: Mapping[str, bool],
    assumed: Mapping[str, bool] | None,
) -> Start:
    """Returns the architecture, input size and class names stored with the weights at `path`.

    The input size is 224 pixels if none is stored.

    Args:
      path: path of the weights, see `read_weights`.
      which: selection among several weights in the file, see `read_weights`.
      head: treatment of the classifier, see `read_weights`.
      name: name of the variant, or None to recognise it.
      options: values of `use_postln` and `normalize_modulator` given by the user.
      assumed: values of these options in the target model, used if the weights do not contain them.

    Raises:
      UserError: see `read_weights`.
    """
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
