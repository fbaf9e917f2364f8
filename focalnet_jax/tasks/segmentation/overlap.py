"""Intersection over union of predicted and true masks, summed over a whole split like mmsegmentation's `IoUMetric`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from focalnet_jax.data.class_lists import output_names, short_names
from focalnet_jax.data.host import Batch
from focalnet_jax.data.masks import IGNORED
from focalnet_jax.data.palette import class_colours
from focalnet_jax.tasks.segmentation.baseline import Baseline
from focalnet_jax.tasks.segmentation.figures import comparison_figure
from focalnet_jax.tasks.segmentation.inference import each_strip, predict_classes, scores
from focalnet_jax.tasks.segmentation.losses import score_losses
from focalnet_jax.tasks.segmentation.shapes import Inference
from focalnet_jax.tasks.segmentation.sources import PairSource
from focalnet_jax.tasks.task import Metrics


class Overlap:
    """`Evaluation` of mean intersection over union (mIoU), mean accuracy and pixel accuracy, in percent.

    Intersections and unions are summed over all images before they are divided. The mIoU leaves out classes that occur
    neither in the masks nor in the predictions. The mean accuracy leaves out classes that do not occur in the masks.
    Ignored pixels are not counted.

    Args:
      source: images with masks, or None to compile only.
      num_classes: number of classes K.
      options: scales, flips and windows of inference.
    """

    def __init__(self, source: PairSource | None, num_classes: int, options: Inference):
        self.source, self.num_classes, self.options = source, num_classes, options
        self._baseline = _baseline_of(source)
        unions = self._baseline.unions if self._baseline else {}
        self._unions = {name: [source.class_names.index(each) for each in union] for name, union in unions.items()}
        self.reset()

    def measure(self, model: nnx.Module, batch: Mapping[str, jax.Array]) -> Metrics:
        """Returns `hits`, `predicted` and `true`, numbers of pixels per class `[K]`, and sums `loss` and `examples`.

        `union_hits` `[U]` is the number of pixels whose true and predicted classes are both in a union, for each of the
        U unions of the source's `Baseline`. In the batch, `mask` is 0 for examples that are padding, and `classes` are
        the true classes, see `scores`.
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

        both = [known & _within(predicted, union) & _within(classes, union) for union in self._unions.values()]
        return {
            "hits": pixels(predicted, known & (predicted == classes)),
            "predicted": pixels(predicted, known),
            "true": pixels(classes, known),
            "union_hits": jnp.asarray([jnp.sum(each) for each in both], jnp.int32),
            "loss": jnp.sum(losses * counted),
            "examples": jnp.sum(counted),
        }

    def reset(self) -> None:
        """Sets all sums to 0."""
        self._pixels = {name: np.zeros(self.num_classes, np.int64) for name in ("hits", "predicted", "true")}
        self._pixels["union_hits"] = np.zeros(len(self._unions), np.int64)
        self._loss = self._examples = 0.0

    def add(self, measured: Mapping[str, np.ndarray], batch: Batch | None = None) -> None:
        """Adds the sums of a batch."""
        for name, sums in self._pixels.items():
            sums += np.asarray(measured[name], np.int64)
        self._loss += float(measured["loss"])
        self._examples += float(measured["examples"])

    def class_ious(self) -> np.ndarray:
        """Returns the IoU of each class in percent, `[K]`.

        It is NaN for a class that occurs neither in the masks nor in the predictions.
        """
        return 100 * _ratios(*self._overlaps())

    def _overlaps(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the numbers of pixels in the intersection and in the union of prediction and truth, `[K]` each."""
        hits = self._pixels["hits"]
        return hits, self._pixels["predicted"] + self._pixels["true"] - hits

    def result(self) -> dict[str, float | int]:
        """Returns `miou`, `macc`, `aacc`, `loss` (mean over images) and `examples`.

        The first four are NaN if there are no examples, or if all pixels are ignored.
        """
        hits, true, examples = self._pixels["hits"], self._pixels["true"], round(self._examples)
        if not examples or not true.sum():
            return dict.fromkeys(("miou", "macc", "aacc", "loss"), math.nan) | {"examples": examples}
        return {
            "miou": float(np.nanmean(self.class_ious())),
            "macc": float(100 * np.nanmean(_ratios(hits, true))),
            "aacc": float(100 * hits.sum() / true.sum()),
            "loss": self._loss / examples,
            "examples": examples,
        }

    def details(self) -> dict[str, float]:
        """Returns the mIoU of the source's baseline, or an empty dict if there is no baseline."""
        if self._baseline is None:
            return {}
        return {f"{self._baseline.method.replace(' ', '_')}_miou": self._baseline.miou}

    def table(self) -> list[tuple[str, ...]]:
        """Returns the IoU, the accuracy and the share of true pixels of each class in percent, after a row of titles.

        The IoU is empty for a class that neither the masks nor the predictions contain, and the accuracy for a class
        that the masks do not contain. If the source has a `Baseline`, there are also a column with the IoU of the
        baseline, a row per union of classes, and a row with means over classes.
        """
        names = self.source.class_names if self.source else tuple(map(str, range(self.num_classes)))
        hits, predicted, true = (self._pixels[name] for name in ("hits", "predicted", "true"))
        rows = [(name, hits[k], [k]) for k, name in enumerate(names)]
        rows += zip(self._unions, self._pixels["union_hits"], self._unions.values(), strict=True)
        shown = [
            (name, *_percents(both, predicted[classes].sum(), true[classes].sum(), max(true.sum(), 1)))
            for name, both, classes in rows
        ]
        titles = ("class", "IoU %", "accuracy %", "pixels %")
        if self._baseline is None:
            return [titles, *shown]
        means = (_percent(np.nanmean(values)) for values in (self.class_ious(), 100 * _ratios(hits, true)))
        shown.append(("mean over classes", *means, ""))
        others = [*self._baseline.ious.values(), self._baseline.miou]
        compared = [(*row, _percent(other)) for row, other in zip(shown, others, strict=True)]
        return [(*titles, f"{self._baseline.method}: IoU %"), *compared]

    def records(self) -> list[dict[str, Any]]:
        """Returns an empty list: this task has no format for predictions."""
        return []

    def describe(self, result: Mapping[str, float]) -> str:
        """Returns the metrics and the number of examples in words, with the mIoU of the baseline if there is one."""
        compared = f" ({self._baseline.method}: {self._baseline.miou:.2f} %)" if self._baseline else ""
        return (
            f"mIoU {result['miou']:.2f} %{compared}  mean accuracy {result['macc']:.2f} %  "
            f"pixels {result['aacc']:.2f} %  loss {result['loss']:.4f}  on {result['examples']} examples"
        )

    def predict(self, model: nnx.Module, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns `image`, original `size`, true `classes` and `predicted` classes of a batch, for `draw`."""
        shown = {name: batch[name] for name in ("image", "size", "classes")}
        return shown | {"predicted": predict_classes(model, batch, self.options)}

    def draw(self, predicted: Mapping[str, np.ndarray], index: int) -> np.ndarray:
        """Returns a figure `[H, W, 3]` uint8: the image, its predicted classes and its true classes."""
        height, width = predicted["size"][index]
        found, true = (predicted[name][index, :height, :width] for name in ("predicted", "classes"))
        # The model may have more outputs than the data has classes.
        names = short_names(output_names(self.num_classes, self.source.class_names))
        colours = class_colours(self.num_classes, self.source.palette)
        return comparison_figure(predicted["image"][index], found, true, names, colours)


def _baseline_of(source: PairSource | None) -> Baseline | None:
    """Returns the baseline of a source, or None if there is none or if its classes are not those of the source."""
    baseline = getattr(source, "baseline", None)
    known = baseline is not None and tuple(baseline.ious)[: len(source.class_names)] == tuple(source.class_names)
    return baseline if known else None


def _within(classes: jax.Array, union: list[int]) -> jax.Array:
    return jnp.isin(classes, jnp.asarray(union, classes.dtype))


def _ratios(parts: np.ndarray, wholes: np.ndarray) -> np.ndarray:
    """Returns `parts / wholes` `[K]`, NaN where a whole is 0."""
    return np.divide(parts, wholes, out=np.full(len(parts), np.nan), where=wholes > 0)


def _percents(hits: int, predicted: int, true: int, pixels: int) -> tuple[str, ...]:
    """Returns the IoU, the accuracy and the share of true pixels of a class or union, as texts in percent.

    A text is empty if the value is undefined.

    Args:
      hits: number of pixels that are predicted correctly.
      predicted: number of pixels for which the class is predicted.
      true: number of pixels of the class in the masks.
      pixels: number of pixels of all classes in the masks.
    """
    wholes = np.array([predicted + true - hits, true, pixels])
    return tuple(map(_percent, 100 * _ratios(np.array([hits, hits, true]), wholes)))


def _percent(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.2f}"
