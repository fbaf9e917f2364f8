"""Detects objects in images, with a trained detector."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from focalnet_jax.config import replaced
from focalnet_jax.convert.detectors import TASK, DetectorHead, abstract_detector, detector_of
from focalnet_jax.convert.read_detector import read_detector
from focalnet_jax.convert.weights import describe_non_finite
from focalnet_jax.data.class_files import read_classes
from focalnet_jax.data.class_lists import output_names, short_names
from focalnet_jax.data.geometry import resize
from focalnet_jax.data.normalization import normalize
from focalnet_jax.data.palette import class_colours
from focalnet_jax.data.paste import paste_cutout
from focalnet_jax.data.preprocessing import Preprocessing, fit_in_words, from_config
from focalnet_jax.errors import RunFailedError, UserError
from focalnet_jax.model.focalnet import Backbone
from focalnet_jax.model.jitted import jitted
from focalnet_jax.ops.implementations import PORTABLE
from focalnet_jax.tasks.detection.canvases import Size, padded_size
from focalnet_jax.tasks.detection.evaluated import padded_with_zeros
from focalnet_jax.tasks.detection.exported import (
    EXPORTS,
    detections_difference,
    export_detections,
    random_inputs,
)
from focalnet_jax.tasks.detection.figures import Drawn
from focalnet_jax.tasks.detection.host import resized_image
from focalnet_jax.tasks.detection.method import Method
from focalnet_jax.tasks.detection.methods import method_of
from focalnet_jax.tasks.detection.options import PAD, Options, options_of
from focalnet_jax.tasks.detection.prediction import DetectionPrediction
from focalnet_jax.tasks.predictor import Activation
from focalnet_jax.tasks.run_configs import fitted_box, run_config

_SHOWN = 0.3  # smallest score of boxes that are drawn


@dataclass(frozen=True)
class Detector:
    """`Predictor` of a detector, with the class names and preprocessing stored with its weights.

    Several threads may call the methods at the same time.

    Attributes:
      model: the model.
      labels: names of the K classes.
      preprocessing: normalization, and the size at which `visualize` draws images.
      options: sizes that images are resized to, and thresholds.
      method: detects objects.
      assumed: parts of the preprocessing that are not stored with the weights, in words; "" if all are stored.
      head: options of the detector's head, for `portable`.
      canvas: height and width of the padded images of an export.
    """

    model: nnx.Module
    labels: tuple[str, ...]
    preprocessing: Preprocessing
    options: Options
    method: Method
    assumed: str = ""
    head: DetectorHead = field(default_factory=DetectorHead)
    canvas: Size = (800, 1344)

    @property
    def backbone(self) -> Backbone:
        """The FocalNet inside the model."""
        return self.model.backbone

    @cached_property
    def description(self) -> str:
        """Numbers of parameters and classes, and the size of the inputs, in words."""
        parameters = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(self.model, nnx.Param))) / 1e6
        fitted = f"images resized to fit into {self.options.box[0]}x{self.options.box[1]} pixels"
        return f"with a detector {parameters:.3g} M parameters, {len(self.labels)} classes, {fitted}"

    def describe_preprocessing(self) -> str:
        """Returns the sizes that images are resized to, and the normalization, in words."""
        return fit_in_words(self.options.box, self.preprocessing.normalization)

    def portable(self) -> nnx.Module:
        """Returns the model with shapes instead of values, and with implementations that run on all platforms.

        Raises:
          UserError: the precision is not float32.
        """
        if (precision := np.dtype(self.backbone.dtype).name) != "float32":
            raise UserError(
                f"detectors are exported in float32, not {precision}, because rounding would decide which boxes are "
                "removed: set the precision to float32"
            )
        config = dataclasses.replace(self.backbone.config, num_classes=len(self.labels), **PORTABLE)
        return abstract_detector(config, self.head)

    @property
    def exports(self) -> tuple[str, ...]:
        """Names of the results of an exported detector: only "detections"."""
        return EXPORTS

    def export_inputs(self, rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
        """Returns random normalized `images` on the canvas, and their `sizes` without padding, see `random_inputs`."""
        return random_inputs(rng, count, self.canvas)

    def outputs(self, model: nnx.Module, inputs: Mapping[str, jax.Array], result: str) -> dict[str, jax.Array]:
        """Returns the detections as arrays, see `export_detections`."""
        return export_detections(self.method, model, **inputs)

    def difference(
        self, given: Mapping[str, np.ndarray], own: Mapping[str, np.ndarray], result: str, tolerance: float
    ) -> float:
        """Returns the largest difference of two results, see `detections_difference`."""
        return detections_difference(given, own, self.options.score, tolerance)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Short and distinct names of the classes, for figures and one-line messages."""
        return tuple(short_names(self.labels))

    def check_head(self, path: str | Path) -> None:
        """Does nothing: a detector always has a head."""

    def transform(self, image: np.ndarray) -> np.ndarray:
        """Returns an image `[H, W, 3]` uint8 resized as in an evaluation, without padding, `[h, w, 3]` uint8."""
        return resize(image, self.options.size(*image.shape[:2]))

    def normalize(self, images: jax.Array) -> jax.Array:
        """Returns the input of the backbone, `[B, h, w, 3]` float32, for transformed images."""
        return normalize(images, self.preprocessing.normalization)

    def detections(self, image: np.ndarray) -> Drawn:
        """Returns boxes, classes, scores and masks of the objects in an image `[H, W, 3]` uint8, the best first.

        Raises:
          RunFailedError: an output is NaN or infinite.
        """
        batch = {name: array[None] for name, array in resized_image(image, self.options).items()}
        found, finite = _detect(self.model, batch, self.method, self.options)
        if not finite:
            raise RunFailedError("the outputs are NaN or infinite; the weights may have diverged: use other weights")
        boxes, scores, labels = (np.asarray(each[0]) for each in (found.boxes, found.scores, found.labels))
        used, masks = labels >= 0, None
        if found.masks is not None:
            pairs = zip(np.asarray(found.masks[0])[used], boxes[used], strict=True)
            masks = [paste_cutout(mask, box, image.shape[:2]) for mask, box in pairs]
        return Drawn(boxes[used], labels[used], scores[used], masks)

    def predictions(self, images: Sequence[np.ndarray], topk: int = 5) -> list[DetectionPrediction]:
        """Returns the prediction for each image `[H, W, 3]` uint8. Raises the errors of `detections`."""
        colours = class_colours(len(self.labels))
        predictions = []
        for image in images:
            found = self.detections(image)
            arrays = found.boxes, found.labels, found.scores, found.masks, image.shape[:2]
            predictions.append(DetectionPrediction(*arrays, self.labels, self.names, colours, _SHOWN, topk))
        return predictions

    def activations(self, images: jax.Array, topk: int) -> list[Activation]:
        """Returns an empty list: detection has no class activation maps."""
        return []


@partial(jitted, static_argnums=(2, 3))
def _detect(model: nnx.Module, batch: Mapping[str, jax.Array], method: Method, options: Options) -> tuple:
    """Returns the detections of a batch, and whether all outputs are finite."""
    images = padded_with_zeros(normalize(batch["image"], options.normalization), batch["size"])
    found = method.detect(model, {**batch, "image": images})
    return found, found.finite.all()


def load_predictor(
    path: str | Path,
    name: str | None = None,
    *,
    image_size: int | tuple[int, int] | None = None,
    dtype: str = "float32",
    options: Mapping[str, bool] | None = None,
    which: str | None = None,
    classes: str | Path | None = None,
) -> Detector:
    """Returns the detector with the weights at `path`, and the class names stored with them.

    Args:
      path: path of the weights, see `read_detector`.
      name: name of the variant; recognised by default.
      image_size: pixels of the shorter side of resized images, or the sides (height, width) of a box that resized
        images fit into in either orientation. The default is the box stored with the weights, or else the box of the
        run's evaluation, or else the original's.
      dtype: precision policy.
      options: `use_postln` and `normalize_modulator`, if they are not stored with the weights.
      which: selection among several weights.
      classes: a file with the names of the classes, one per line; by default the names stored with the weights.

    Raises:
      UserError: there are no weights, they do not fit the arguments, or the numbers of `classes` and outputs differ.
      RunFailedError: the checkpoint is damaged, or a weight is NaN or infinite.
    """
    weights = read_detector(path, name, options, which=which)
    if broken := describe_non_finite((weights.params, weights.statistics)):
        raise RunFailedError(f"{path}: {broken}; the weights have diverged: use other weights")
    outputs, info = weights.config.num_classes, weights.info
    listed = None if classes is None else read_classes(classes)
    if listed is not None and len(listed) != outputs:
        raise UserError(f"{classes} has {len(listed)} classes; expected {outputs}, one for each output of {path}")
    stored = run_config(TASK, path, which)
    head = {f"head.{key}": value for key, value in weights.head.to_dict().items()}
    config = replaced(stored, head | {"model.num_classes": outputs, "model.depths": weights.config.depths})
    how, found = from_config(config.data), options_of(config)
    if info.preprocessing is not None:
        how = dataclasses.replace(how, normalization=info.preprocessing.normalization)
    found = dataclasses.replace(found, normalization=how.normalization, exact=True)  # images come one by one
    if info.box is not None:
        found = dataclasses.replace(found, box=info.box)
    if image_size is not None:
        found = dataclasses.replace(found, box=fitted_box(image_size, found.box))
    method = dataclasses.replace(method_of(config), options=found)
    names = tuple(output_names(outputs, info.classes if listed is None else listed))
    assumed = "preprocessing" if info.preprocessing is None else ""
    wide = image_size is None or isinstance(image_size, int)
    canvas = padded_size(found.box[::-1] if wide else image_size, PAD)
    return Detector(detector_of(weights, dtype), names, how, found, method, assumed, weights.head, canvas)
