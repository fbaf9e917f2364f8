"""Predicts class names for images, with a trained model and its preprocessing."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from focalnet_jax.convert.load import model_of
from focalnet_jax.convert.weights import read_weights
from focalnet_jax.data.class_files import read_classes
from focalnet_jax.data.class_lists import output_names, short_names
from focalnet_jax.data.normalization import normalize
from focalnet_jax.data.preprocessing import USUAL, Normalization, Preprocessing, sides
from focalnet_jax.data.transforms import EvalTransform, eval_transform
from focalnet_jax.errors import RunFailedError, UserError
from focalnet_jax.model import FocalNet
from focalnet_jax.model.jitted import jitted
from focalnet_jax.model.precision import get_precision
from focalnet_jax.model.summary import summarize
from focalnet_jax.ops.implementations import PORTABLE
from focalnet_jax.tasks.classification.activation import class_activation
from focalnet_jax.tasks.classification.prediction import ClassPrediction
from focalnet_jax.tasks.logits import EXPORTS, export_result, logits_difference, random_images
from focalnet_jax.tasks.predictor import Activation


@dataclass(frozen=True)
class Classifier:
    """`Predictor` of a classification model, with the preprocessing and the class names stored with its weights.

    Several threads may call the methods at the same time. Each call uses the current parameters of the model.

    Attributes:
      model: model, with or without a classifier.
      labels: name of each output.
      preprocessing: preprocessing from images to the model's input. A size in pixels, or (height, width), may be given
        instead; it selects ImageNet's usual preprocessing at that size.
      assumed: parts of the preprocessing that are not stored with the weights, in words. For these parts, ImageNet's
        usual preprocessing is used.
    """

    model: FocalNet
    labels: tuple[str, ...]
    preprocessing: Preprocessing = USUAL
    assumed: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.preprocessing, Preprocessing):
            object.__setattr__(self, "preprocessing", USUAL.at(sides(self.preprocessing)))

    @cached_property
    def transform(self) -> EvalTransform:
        """Resizing and cropping of an evaluation, from `[H, W, 3]` uint8 to `[h, w, 3]` uint8."""
        return eval_transform(self.preprocessing)

    def normalize(self, images: jax.Array) -> jax.Array:
        """Returns the model's input `[B, h, w, 3]` float32 for uint8 images that are resized and cropped."""
        return normalize(images, self.preprocessing.normalization)

    @property
    def backbone(self) -> FocalNet:
        """The model itself."""
        return self.model

    @property
    def description(self) -> str:
        """Numbers of parameters and classes, and the size of the inputs, in words."""
        config, (height, width) = self.model.config, self.preprocessing.size
        parameters = summarize(config, (height, width)).params / 1e6
        return f"{parameters:.3g} M parameters, {config.num_classes} classes, images of {width}x{height} pixels"

    def check_head(self, path: str | Path) -> None:
        """Raises `UserError` if the weights, which come from `path`, have no classifier."""
        if not self.labels:
            raise UserError(f"{path} has no classifier, so it cannot predict: give weights with a classifier")

    def describe_preprocessing(self) -> str:
        """Returns the preprocessing in words."""
        return self.preprocessing.describe()

    def portable(self) -> FocalNet:
        """Returns the model with shapes instead of values, and with implementations that run on all platforms."""
        config, precision = dataclasses.replace(self.model.config, **PORTABLE), get_precision(self.model.dtype)
        return nnx.eval_shape(lambda: FocalNet(config, precision=precision, rngs=nnx.Rngs(0)))

    @property
    def exports(self) -> tuple[str, ...]:
        """Names of the results of an exported model: "logits" and "classes"."""
        return EXPORTS

    def export_inputs(self, rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
        """Returns random normalized images `[count, h, w, 3]` float32 as `images`."""
        return {"images": random_images(rng, count, self.preprocessing.size)}

    def outputs(self, model: FocalNet, inputs: Mapping[str, jax.Array], result: str) -> jax.Array:
        """Returns logits `[B, K]` float32, or classes `[B]` int32, for normalized images `[B, h, w, 3]`."""
        return export_result(model(inputs["images"]), result)

    def difference(self, given: np.ndarray, own: np.ndarray, result: str, tolerance: float) -> float:
        """Returns the largest difference of two results, see `logits_difference`."""
        return logits_difference(given, own, result)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Short and distinct names of the outputs, for plots and one-line messages."""
        return tuple(short_names(self.labels))

    def logits(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Returns logits `[B, K]` float32 for a list of B images `[H, W, 3]` uint8 of any sizes, which may be empty."""
        if not len(images):
            return np.zeros((0, len(self.labels)), np.float32)
        inputs = np.stack([self.transform(image) for image in images])
        return np.asarray(_logits(self.model, inputs, self.preprocessing.normalization))

    def predict(self, images: Sequence[np.ndarray], topk: int = 5) -> list[list[tuple[str, float]]]:
        """Returns the `topk` most probable labels of each image `[H, W, 3]` uint8 with probabilities, largest first."""
        return [
            [(self.labels[output], float(probability)) for output, probability in zip(*each, strict=True)]
            for each in zip(*self.best(images, topk), strict=True)
        ]

    def best(self, images: Sequence[np.ndarray], topk: int = 5) -> tuple[np.ndarray, np.ndarray]:
        """Returns indices of the most probable outputs and their probabilities, `[B, min(topk, K)]` each.

        Raises:
          RunFailedError: a logit is NaN or infinite, so that there is no most probable class.
        """
        logits = self.logits(images)
        if not np.isfinite(logits).all():
            raise RunFailedError("the logits are NaN or infinite; the weights may have diverged: use other weights")
        probabilities = np.asarray(jax.nn.softmax(logits))
        classes = np.argsort(-probabilities, axis=-1, kind="stable")[:, :topk]
        return classes, np.take_along_axis(probabilities, classes, axis=-1)

    def predictions(self, images: Sequence[np.ndarray], topk: int = 5) -> list[ClassPrediction]:
        """Returns the prediction for each image `[H, W, 3]` uint8. Raises the errors of `best`."""
        if not len(images):
            return []
        found = zip(*self.best(images, topk), strict=True)
        return [
            ClassPrediction(
                tuple(self.labels[each] for each in classes),
                tuple(self.names[each] for each in classes),
                tuple(map(float, probabilities)),
            )
            for classes, probabilities in found
        ]

    def activations(self, images: jax.Array, topk: int) -> list[Activation]:
        """Returns class activation maps (CAM) of the `topk` most probable classes for one image.

        `images` `[1, h, w, 3]` is the normalized image. The result is empty if the model has no classifier.
        """
        if self.model.head is None or topk == 0:
            return []
        best = np.argsort(-np.asarray(_outputs(self.model, images)), axis=-1, kind="stable")[:, :topk]
        places, logits = class_activation(self.model, images, best)
        probabilities = np.asarray(jax.nn.softmax(logits[0]))
        return [
            Activation(self.names[output], float(probabilities[output]), each)
            for output, each in zip(best[0], places[0], strict=True)
        ]


@jitted
def _outputs(model: FocalNet, images: jax.Array) -> jax.Array:
    return model(images)


@partial(jitted, static_argnums=(2,))
def _logits(model: FocalNet, images: jax.Array, normalization: Normalization) -> jax.Array:
    return model(normalize(images, normalization))


def load_classifier(
    path: str | Path,
    name: str | None = None,
    *,
    image_size: int | tuple[int, int] | None = None,
    dtype: str = "float32",
    options: Mapping[str, bool] | None = None,
    which: str | None = None,
    classes: str | Path | None = None,
) -> Classifier:
    """Returns the classifier with the weights at `path`, and the class names and preprocessing stored with them.

    Args:
      path: path of weights in any format, see `load_model`.
      name: name of the variant; by default recognised from the weights.
      image_size: pixels per side, or (height, width); by default the size stored with the weights, or 224.
      dtype: precision policy.
      options: `use_postln` and `normalize_modulator`, if the weights and accompanying files do not specify them.
      which: name of the weights in a file with several models, see `read_weights`.
      classes: a file with the names of the outputs, see `read_classes`; by default the names stored with the weights.

    Raises:
      UserError: there are no readable weights, the weights are not of the variant `name`, their preprocessing is not
        supported, or the numbers of `classes` and outputs differ.

    Warns:
      UserWarning: the outputs may be unexpected, because one of several models was selected or a module was left out.
    """
    weights = read_weights(path, name, options, which=which)
    weights.warn(path)
    stated = weights.info
    how = stated.follow()
    outputs = weights.config.num_classes
    given = None if classes is None else read_classes(classes)
    if given is not None and len(given) != outputs:
        raise UserError(f"{classes} has {len(given)} classes; expected {outputs}, one for each output of {path}")
    names = output_names(outputs, given or stated.words or stated.classes)
    assumed = "preprocessing" if how is None else "size, resize and crop" if stated.normalization_only else ""
    how = USUAL if how is None else how
    how = how if image_size is None else how.at(sides(image_size))
    return Classifier(model_of(weights, dtype), tuple(names), how, assumed)
