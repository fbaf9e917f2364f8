"""Protocols of a trained model that predicts for images, for the commands that print, draw or export predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    import jax
    from flax import nnx

    from focalnet_jax.data.preprocessing import Preprocessing
    from focalnet_jax.model.focalnet import Backbone


class Prediction(Protocol):
    """A model's prediction for one image."""

    def line(self) -> str:
        """Returns the prediction as one line of text."""

    def json(self) -> dict[str, Any]:
        """Returns the prediction as a JSON object."""

    def draw(self, image: np.ndarray) -> np.ndarray:
        """Returns the image `[H, W, 3]` uint8, possibly enlarged, with the prediction drawn on it or next to it."""

    def scores(self) -> dict[str, float]:
        """Returns probabilities, fractions of the image or other scores in [0, 1] by class name, the largest first.

        The result is empty for a task whose predictions have no classes.
        """

    def files(self) -> dict[str, bytes]:
        """Returns images to write in addition to the result of `draw`, encoded as PNG, by the name of their folder."""


@dataclass(frozen=True)
class Activation:
    """A class activation map.

    Attributes:
      name: name of the class.
      probability: predicted probability of the class, in [0, 1].
      places: contribution of each position of the last feature map to the logit of the class, `[h, w]`.
    """

    name: str
    probability: float
    places: np.ndarray


class Predictor(Protocol):
    """A model that predicts for images.

    Attributes:
      model: the model.
      backbone: FocalNet's patch embedding and stages, whose maps `visualize` and `demo` draw.
      preprocessing: preprocessing from images to the input of the backbone.
      assumed: parts of the preprocessing that are not stored with the weights, in words; empty if all parts are stored.
      description: size of the model, possible predictions and size of the inputs, in words.
      exports: names of the results that an exported model can have, the default first.
    """

    model: nnx.Module
    backbone: Backbone
    preprocessing: Preprocessing
    assumed: str
    description: str
    exports: tuple[str, ...]

    def check_head(self, path: str | Path) -> None:
        """Raises `UserError` if the weights, which come from `path`, have no head and cannot predict."""

    def describe_preprocessing(self) -> str:
        """Returns the preprocessing from images to the input of the model, in words."""

    def portable(self) -> nnx.Module:
        """Returns `model` with shapes instead of values, and with implementations that run on all platforms."""

    def export_inputs(self, rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
        """Returns random arguments of an exported model for `count` images: arrays `[count, ...]` by name.

        The first argument is `images`, normalized images `[count, h, w, 3]` float32.
        """

    def outputs(self, model: nnx.Module, inputs: Mapping[str, jax.Array], result: str) -> Any:
        """Returns the result of an exported model: an array `[B, ...]`, or a dict of such arrays.

        JAX traces this method.

        Args:
          model: the attribute `model`, or the result of `portable` with the values of `model`.
          inputs: arrays as in `export_inputs`.
          result: one of `exports`.
        """

    def difference(self, given: Any, own: Any, result: str, tolerance: float) -> float:
        """Returns the largest relative difference between the results of an exported model and of `model`.

        Args:
          given: result `result` of the exported model for one image.
          own: result `exports[0]` of `model` for the same image.
          result: name of a result, one of `exports`.
          tolerance: largest difference that rounding may cause.
        """

    def transform(self, image: np.ndarray) -> np.ndarray:
        """Returns an image `[H, W, 3]` uint8 after the resizing and cropping of an evaluation, `[h, w, 3]` uint8."""

    def normalize(self, images: jax.Array) -> jax.Array:
        """Returns the input of the backbone, `[B, h, w, 3]` float32, for transformed images."""

    def predictions(self, images: Sequence[np.ndarray], topk: int) -> Sequence[Prediction]:
        """Returns one prediction for each image `[H, W, 3]` uint8. `Prediction.line` has at most `topk` class names."""

    def activations(self, images: jax.Array, topk: int) -> Sequence[Activation]:
        """Returns activation maps of the `topk` most probable classes for one normalized image `[1, h, w, 3]`.

        The result is empty if the task has no such maps.
        """
