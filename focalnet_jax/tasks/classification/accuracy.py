"""Top-1 and top-5 accuracy and the loss over a whole split."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from focalnet_jax.data.class_lists import output_names, short_names
from focalnet_jax.data.drawing import at_least
from focalnet_jax.data.normalization import normalize
from focalnet_jax.data.preprocessing import IMAGENET, Normalization
from focalnet_jax.data.source import Source
from focalnet_jax.tasks.classification.prediction import ClassPrediction
from focalnet_jax.tasks.task import Batch, Metrics

_DRAWN, _LEAST_SIDE = 5, 112  # classes drawn below an image; its smallest side in pixels


class Accuracy:
    """`Evaluation` of accuracy and loss.

    Examples may have several labels: `[B, M]`, padded with -1. Such an example counts as correct if the prediction is
    one of its labels, and its loss is the mean over its labels. An example without labels is not counted. This is the
    protocol of ImageNet-ReaL (arXiv 2006.07159).

    Args:
      source: the examples.
      competing: outputs that compete. None: all outputs. A number n: only the first n outputs, because the classes of
        ImageNet-1K are the first 1000 of ImageNet-22K. A mask `[K]` bool: all outputs; for the additional metrics
        `top1_subset` and `top5_subset`, only the outputs whose mask is True.
      normalization: normalization of the images.
    """

    def __init__(
        self, source: Source, competing: int | np.ndarray | None = None, normalization: Normalization = IMAGENET
    ):
        self.source, self.competing, self.normalization = source, competing, normalization
        self.reset()

    def measure(self, model: nnx.Module, batch: Mapping[str, jax.Array]) -> Metrics:
        """Returns the sums `top1`, `top5`, `loss` and `examples` over the examples of a batch that count.

        An example counts if it has a label and its `mask` `[B]` in the batch is 1. With a subset of competing outputs,
        there are also the sums `top1_subset` and `top5_subset`.
        """
        competing = self.competing
        first, subset = (competing, None) if competing is None or isinstance(competing, int) else (None, competing)
        logits = model(normalize(batch["image"], self.normalization))[:, :first]  # [B, K]
        labels = batch["label"].reshape(len(logits), -1)  # [B, M]
        known = labels >= 0

        def hits_of(logits: jax.Array) -> jax.Array:  # [B, 5], the best first
            best = jax.lax.top_k(logits, min(5, logits.shape[-1]))[1]
            return (best[:, :, None] == labels[:, None, :]).any(axis=-1)

        hits = hits_of(logits)
        losses = optax.softmax_cross_entropy_with_integer_labels(
            jnp.broadcast_to(logits[:, None], (*labels.shape, logits.shape[-1])), jnp.maximum(labels, 0)
        )
        losses = jnp.sum(losses * known, axis=-1) / jnp.maximum(jnp.sum(known, axis=-1), 1)
        counted = batch["mask"] * known.any(axis=-1)
        sums = {
            "top1": jnp.sum(hits[:, 0] * counted),
            "top5": jnp.sum(hits.any(axis=-1) * counted),
            "loss": jnp.sum(losses * counted),
            "examples": jnp.sum(counted),
        }
        if subset is not None:
            hits = hits_of(jnp.where(subset, logits, -jnp.inf))
            sums |= {"top1_subset": jnp.sum(hits[:, 0] * counted), "top5_subset": jnp.sum(hits.any(axis=-1) * counted)}
        return sums

    def reset(self) -> None:
        """Sets all sums to 0."""
        self._totals: dict[str, float] = {}

    def add(self, measured: Mapping[str, np.ndarray], batch: Batch | None = None) -> None:
        """Adds the sums of a batch."""
        for name, value in measured.items():
            self._totals[name] = self._totals.get(name, 0.0) + float(np.float64(value))

    def result(self) -> dict[str, float | int]:
        """Returns means over the examples, accuracies in percent, and the number of `examples`.

        The means are NaN if no example counts. Before the first `add`, there are no means.
        """
        totals = dict(self._totals)
        examples = round(totals.pop("examples", 0))  # 0 if the evaluation was stopped before the first batch
        accuracies = sorted(name for name in totals if name.startswith("top"))
        sums = {name: 100 * totals.pop(name) for name in accuracies} | totals
        means = {name: total / examples if examples else math.nan for name, total in sums.items()}
        return means | {"examples": examples}

    def details(self) -> dict[str, int]:
        """Returns `subset_classes`, the number of outputs in the subset, or an empty dict if there is no subset."""
        return {"subset_classes": int(self.competing.sum())} if isinstance(self.competing, np.ndarray) else {}

    def table(self) -> list[tuple[str, ...]]:
        """Returns an empty list: this task has no table."""
        return []

    def records(self) -> list[dict[str, Any]]:
        """Returns an empty list: this task has no format for predictions."""
        return []

    def describe(self, result: Mapping[str, float]) -> str:
        """Returns the accuracies, the loss and the number of examples in words."""
        subset = ""
        if "top1_subset" in result:
            subset = f"(subset: {result['top1_subset']:.2f} %  {result['top5_subset']:.2f} %)  "
        return (
            f"top-1 {result['top1']:.2f} %  top-5 {result['top5']:.2f} %  {subset}loss {result['loss']:.4f}  on "
            f"{result['examples']} examples"
        )

    def predict(self, model: nnx.Module, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns `image`, `label` and `probabilities` `[B, K]` of a batch, for `draw`."""
        probabilities = jax.nn.softmax(model(normalize(batch["image"], self.normalization)))
        return {"image": batch["image"], "label": batch["label"], "probabilities": probabilities}

    def draw(self, predicted: Mapping[str, np.ndarray], index: int) -> np.ndarray:
        """Returns a figure `[H, W, 3]` uint8: an image, its most probable classes and its true classes, marked."""
        image, label, probabilities = (predicted[name][index] for name in ("image", "label", "probabilities"))
        true = [each for each in np.atleast_1d(label).tolist() if each >= 0]
        best = np.argsort(-probabilities, kind="stable")[:_DRAWN].tolist()
        names = short_names(output_names(len(probabilities), self.source.class_names))
        shown = dict.fromkeys([*best, *true])
        return ClassPrediction(
            tuple(names[each] for each in shown),
            tuple(f"{names[each]} (true)" if each in true else names[each] for each in shown),
            tuple(float(probabilities[each]) for each in shown),
        ).draw(at_least(_LEAST_SIDE, image))
