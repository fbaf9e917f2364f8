"""Intersection over union of predicted and true masks, summed over a whole split like mmsegmentation's `IoUMetric`."""

from __future__ import annotations

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from focalnet_jax.data.class_lists import short_names
from focalnet_jax.data.host import Batch
from focalnet_jax.data.masks import IGNORED
from focalnet_jax.tasks.segmentation.figures import comparison_figure
from focalnet_jax.tasks.segmentation.inference import each_strip, predict_classes, scores
from focalnet_jax.tasks.segmentation.losses import score_losses
from focalnet_jax.tasks.segmentation.palette import colours_of
from focalnet_jax.tasks.segmentation.shapes import Inference
from focalnet_jax.tasks.segmentation.sources import PairSource
from focalnet_jax.tasks.task import Metrics


class Overlap:
    """`Evaluation` of mean intersection over union (mIoU), mean accuracy and pixel accuracy, in percent.

    Intersections and unions are summed over all images before they are divided. The mean over classes leaves out
    classes that neither the masks nor the predictions contain. Ignored pixels count nowhere.

    Args:
      source: images with masks, or None to compile only.
      num_classes: number of classes K.
      options: scales, flips and windows of inference.
    """

    def __init__(self, source: PairSource | None, num_classes: int, options: Inference):
        self.source, self.num_classes, self.options = source, num_classes, options
        self.reset()

    def measure(self, model: nnx.Module, batch: Mapping[str, jax.Array]) -> Metrics:
        """Returns the pixels of each class `[K]`: `hits`, `predicted` and `true`; and sums of `loss` and `examples`.

        An example whose `mask` in the batch is 0 is padding; the masks of classes are `classes`, see `scores`.
        """
        classes, counted = batch["classes"], batch["mask"]
        computed = scores(model, batch, self.options)

        def strip(scores: jax.Array, classes: jax.Array) -> tuple[jax.Array, jax.Array]:
            losses = score_losses(scores, classes, probabilities=computed.probabilities)
            return jnp.argmax(scores, axis=-1).astype(jnp.uint8), losses.sum(axis=-1)

        predicted, losses = each_strip(strip, computed, classes)  # [B, Hc, Wc], [B, Hc]
        losses = losses.sum(axis=-1) / jnp.maximum(batch["size"].prod(axis=-1), 1)
        known = (classes != IGNORED) & (counted[:, None, None] > 0)

        def pixels(labels: jax.Array, where: jax.Array) -> jax.Array:
            outside = jnp.where(where, labels, self.num_classes)
            return jnp.bincount(outside.ravel().astype(jnp.int32), length=self.num_classes + 1)[:-1]

        return {
            "hits": pixels(predicted, known & (predicted == classes)),
            "predicted": pixels(predicted, known),
            "true": pixels(classes, known),
            "loss": jnp.sum(losses * counted),
            "examples": jnp.sum(counted),
        }

    def reset(self) -> None:
        """Sets all sums to 0."""
        self._pixels = {name: np.zeros(self.num_classes, np.int64) for name in ("hits", "predicted", "true")}
        self._loss = self._examples = 0.0

    def add(self, measured: Mapping[str, np.ndarray], batch: Batch | None = None) -> None:
        """Adds the sums of a batch."""
        for name, sums in self._pixels.items():
            sums += np.asarray(measured[name], np.int64)
        self._loss += float(measured["loss"])
        self._examples += float(measured["examples"])

    def class_ious(self) -> np.ndarray:
        """Returns the intersection over union of each class in percent, `[K]`, NaN for a class that does not occur."""
        hits = self._pixels["hits"]
        union = self._pixels["predicted"] + self._pixels["true"] - hits
        return 100 * np.divide(hits, union, out=np.full(len(hits), np.nan), where=union > 0)

    def result(self) -> dict[str, float | int]:
        """Returns `miou`, `macc`, `aacc`, `loss` (mean over images) and `examples`. They are NaN without examples."""
        hits, true, examples = self._pixels["hits"], self._pixels["true"], round(self._examples)
        if not examples or not true.sum():
            return dict.fromkeys(("miou", "macc", "aacc", "loss"), math.nan) | {"examples": examples}
        accuracies = np.divide(hits, true, out=np.full(len(hits), np.nan), where=true > 0)
        return {
            "miou": float(np.nanmean(self.class_ious())),
            "macc": float(100 * np.nanmean(accuracies)),
            "aacc": float(100 * hits.sum() / true.sum()),
            "loss": self._loss / examples,
            "examples": examples,
        }

    def details(self) -> dict[str, int]:
        """Returns an empty dict: all facts are in the result."""
        return {}

    def table(self) -> list[tuple[str, ...]]:
        """Returns the IoU and the accuracy of each class in percent, after a row of titles.

        A class that occurs neither in the masks nor in the predictions has no numbers.
        """
        names = self.source.class_names if self.source else map(str, range(self.num_classes))
        hits, true = self._pixels["hits"], self._pixels["true"]
        accuracies = 100 * np.divide(hits, true, out=np.full(len(hits), np.nan), where=true > 0)
        rows = zip(names, self.class_ious(), accuracies, true / max(true.sum(), 1), strict=False)
        shown = [(name, *(_percent(value) for value in (iou, acc, 100 * share))) for name, iou, acc, share in rows]
        return [("class", "IoU %", "accuracy %", "pixels %"), *shown]

    def describe(self, result: Mapping[str, float]) -> str:
        """Describes the metrics and the number of examples in words."""
        return (
            f"mIoU {result['miou']:.2f} %  mean accuracy {result['macc']:.2f} %  pixels {result['aacc']:.2f} %  "
            f"loss {result['loss']:.4f}  on {result['examples']} examples"
        )

    def predict(self, model: nnx.Module, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns `image`, original `size`, true `classes` and `predicted` classes of a batch, for `draw`."""
        shown = {name: batch[name] for name in ("image", "size", "classes")}
        return shown | {"predicted": predict_classes(model, batch, self.options)}

    def draw(self, predicted: Mapping[str, np.ndarray], index: int) -> np.ndarray:
        """Returns the image, its predicted classes and its true classes, `[H, W, 3]` uint8."""
        height, width = predicted["size"][index]
        found, true = (predicted[name][index, :height, :width] for name in ("predicted", "classes"))
        names = short_names(self.source.class_names)
        return comparison_figure(predicted["image"][index], found, true, names, colours_of(self.source))


def _percent(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.2f}"
