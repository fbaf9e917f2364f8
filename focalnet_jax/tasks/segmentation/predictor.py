"""Predicts the class of every pixel of images, with a trained segmentation model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from focalnet_jax.convert.read_upernet import read_upernet
from focalnet_jax.convert.upernet import abstract_upernet, heads_from_shapes, upernet_of
from focalnet_jax.convert.weights import describe_non_finite
from focalnet_jax.data.class_lists import output_names, short_names
from focalnet_jax.data.geometry import resize
from focalnet_jax.data.normalization import normalize
from focalnet_jax.data.palette import class_colours
from focalnet_jax.data.preprocessing import Preprocessing, fit_in_words, from_config, sides
from focalnet_jax.data.segment_classes import read_segment_classes
from focalnet_jax.errors import RunFailedError, UserError
from focalnet_jax.model.focalnet import Backbone
from focalnet_jax.model.heads.upernet import UPerNet
from focalnet_jax.model.jitted import jitted
from focalnet_jax.ops.implementations import PORTABLE
from focalnet_jax.ops.resize import bilinear
from focalnet_jax.parameters import named_leaves
from focalnet_jax.tasks.logits import EXPORTS, export_result, logits_difference, random_images
from focalnet_jax.tasks.predictor import Activation
from focalnet_jax.tasks.run_configs import fitted_box, run_config
from focalnet_jax.tasks.segmentation.host import resized_images
from focalnet_jax.tasks.segmentation.inference import each_strip, scores
from focalnet_jax.tasks.segmentation.prediction import SegmentPrediction
from focalnet_jax.tasks.segmentation.shapes import Inference, inference_of


@dataclass(frozen=True)
class Segmenter:
    """`Predictor` of a segmentation model, with the class names and preprocessing stored with its weights.

    Several threads may call the methods at the same time.

    Attributes:
      model: the model.
      labels: names of the K classes.
      colours: colours of the classes, `[K, 3]` uint8.
      preprocessing: normalization, and the size at which `visualize` draws images.
      inference: sizes that images are resized to, scales, flips and windows.
      assumed: parts of the preprocessing that are not stored with the weights, in words. For these parts, the
        original's preprocessing is used.
    """

    model: UPerNet
    labels: tuple[str, ...]
    colours: np.ndarray
    preprocessing: Preprocessing
    inference: Inference
    assumed: str = ""

    @property
    def backbone(self) -> Backbone:
        """The FocalNet inside the model."""
        return self.model.backbone

    @cached_property
    def description(self) -> str:
        """Numbers of parameters and classes, and the size of the inputs, in words."""
        parameters = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(self.model, nnx.Param))) / 1e6
        fitted = f"images resized to fit into {self.inference.box[0]}x{self.inference.box[1]} pixels"
        return f"with UPerNet {parameters:.3g} M parameters, {len(self.labels)} classes, {fitted}"

    def describe_preprocessing(self) -> str:
        """Returns the sizes that images are resized to, and the normalization, in words."""
        return fit_in_words(self.inference.box, self.preprocessing.normalization)

    def portable(self) -> UPerNet:
        """Returns the model with shapes instead of values, and with implementations that run on all platforms."""
        leaves = named_leaves(nnx.to_pure_dict(nnx.state(self.model)))
        shapes = {name: leaf.shape for name, leaf in leaves.items()}
        heads, classes = heads_from_shapes(shapes, self.model.decode_head.pool_scales, "the model")
        config = dataclasses.replace(self.backbone.config, num_classes=classes, **PORTABLE)
        return abstract_upernet(config, heads, np.dtype(self.backbone.dtype).name)

    @property
    def exports(self) -> tuple[str, ...]:
        """Names of the results of an exported model: "logits" and "classes"."""
        return EXPORTS

    def export_inputs(self, rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
        """Returns random normalized images `[count, h, w, 3]` float32 as `images`."""
        return {"images": random_images(rng, count, self.preprocessing.size)}

    def outputs(self, model: UPerNet, inputs: Mapping[str, jax.Array], result: str) -> jax.Array:
        """Returns logits `[B, h, w, K]` float32, or classes `[B, h, w]` int32, at the size of the images."""
        images = inputs["images"]
        return export_result(bilinear(model(images), images.shape[1:3]), result)

    def difference(self, given: np.ndarray, own: np.ndarray, result: str, tolerance: float) -> float:
        """Returns the largest difference of two results, see `logits_difference`."""
        return logits_difference(given, own, result)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Short and distinct names of the classes, for figures and one-line messages."""
        return tuple(short_names(self.labels))

    def check_head(self, path: str | Path) -> None:
        """Does nothing: a segmentation model always has a head."""

    def transform(self, image: np.ndarray) -> np.ndarray:
        """Returns an image `[H, W, 3]` uint8 resized as in an evaluation, at the first scale, `[h, w, 3]` uint8."""
        return resize(image, self.inference.sizes(*image.shape[:2])[0])

    def normalize(self, images: jax.Array) -> jax.Array:
        """Returns the input of the backbone, `[B, h, w, 3]` float32, for transformed images."""
        return normalize(images, self.preprocessing.normalization)

    def classes(self, image: np.ndarray) -> np.ndarray:
        """Returns the class of every pixel of an image `[H, W, 3]` uint8, `[H, W]` uint8.

        Raises:
          RunFailedError: a logit is NaN or infinite, so that there is no most probable class.
        """
        height, width, _ = image.shape
        canvas = np.zeros(self.inference.canvas(height, width), np.uint8)
        batch = {name: array[None] for name, array in resized_images(image, self.inference).items()}
        classes, finite = _classes(self.model, batch | {"classes": canvas[None]}, self.inference)
        if not finite:
            raise RunFailedError("the logits are NaN or infinite; the weights may have diverged: use other weights")
        return np.asarray(classes[0, :height, :width])

    def predictions(self, images: Sequence[np.ndarray], topk: int = 5) -> list[SegmentPrediction]:
        """Returns the prediction for each image `[H, W, 3]` uint8. Raises the errors of `classes`."""
        return [SegmentPrediction(self.classes(image), self.labels, self.names, self.colours, topk) for image in images]

    def activations(self, images: jax.Array, topk: int) -> list[Activation]:
        """Returns an empty list: the prediction itself is a map."""
        return []


@partial(jitted, static_argnums=(2,))
def _classes(model: UPerNet, batch: Mapping[str, jax.Array], options: Inference) -> tuple[jax.Array, jax.Array]:
    """Returns the classes of the canvas `[B, Hc, Wc]` uint8, and whether all scores are finite."""

    def best(scores: jax.Array, _: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jnp.argmax(scores, axis=-1).astype(jnp.uint8), jnp.isfinite(scores).all(axis=-1)

    classes, finite = each_strip(best, scores(model, batch, options), batch["classes"])
    return classes, finite.all()


def load_segmenter(
    path: str | Path,
    name: str | None = None,
    *,
    image_size: int | tuple[int, int] | None = None,
    dtype: str = "float32",
    options: Mapping[str, bool] | None = None,
    which: str | None = None,
    classes: str | Path | None = None,
) -> Segmenter:
    """Returns the segmenter with the weights at `path`, and the class names and colours stored with them.

    Args:
      path: path of the weights, see `read_upernet`.
      name: name of the variant; recognised by default.
      image_size: pixels of the shorter side of resized images, or the sides (height, width) of a box that resized
        images fit into in either orientation. The default is the box stored with the weights, or else the box of the
        run's evaluation, or else the original's.
      dtype: precision policy.
      options: `use_postln` and `normalize_modulator`, if they are not stored with the weights.
      which: selection among several weights.
      classes: a file with the names of the classes, with or without colours, see `read_segment_classes`; by default
        the names stored with the weights.

    Raises:
      UserError: there are no weights, they do not fit the arguments, or the numbers of `classes` and outputs differ.
      RunFailedError: the checkpoint is damaged, or a weight is NaN or infinite.
    """
    weights = read_upernet(path, name, options, which=which)
    if broken := describe_non_finite((weights.params, weights.statistics)):
        raise RunFailedError(f"{path}: {broken}; the weights have diverged: use other weights")
    outputs, info = weights.config.num_classes, weights.info
    listed = None if classes is None else read_segment_classes(classes)
    if listed is not None and len(listed.names) != outputs:
        raise UserError(f"{classes} has {len(listed.names)} classes; expected {outputs}, one for each output of {path}")
    names = output_names(outputs, info.classes if listed is None else listed.names)
    palette = info.palette if listed is None or listed.palette is None else listed.palette
    config = run_config("segmentation", path, which)
    how = from_config(config.data)
    if info.preprocessing is not None:
        how = dataclasses.replace(how, normalization=info.preprocessing.normalization)
    inference = dataclasses.replace(inference_of(config), normalization=how.normalization)
    if info.box is not None:
        inference = dataclasses.replace(inference, box=info.box)
    assumed = "preprocessing" if info.preprocessing is None else "the size of images" if info.box is None else ""
    if image_size is not None:
        how = how.at(sides(image_size))
        inference = dataclasses.replace(inference, box=fitted_box(image_size, inference.box))
    model = upernet_of(weights, dtype)
    return Segmenter(model, tuple(names), class_colours(outputs, palette), how, inference, assumed)
