"""Losses and detections of ATSS (arXiv 1912.02424), computed like mmdetection's ATSSHead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from focalnet_jax.distributed.activations import map_examples
from focalnet_jax.model.heads.atss import ATSS
from focalnet_jax.ops.boxes import decode, giou
from focalnet_jax.ops.nms import Detections, multiclass_nms
from focalnet_jax.tasks.detection.anchors import Anchors
from focalnet_jax.tasks.detection.atss_targets import Targets, assign, count_targets
from focalnet_jax.tasks.detection.options import Options
from focalnet_jax.tasks.task import Metrics

_STDS = (0.1, 0.1, 0.2, 0.2)  # of the deltas
_ALPHA, _GAMMA = 0.25, 2.0  # of the focal loss (arXiv 1708.02002)
_BOX_WEIGHT = 2.0


@dataclass(frozen=True)
class ATSSMethod:
    """`Method` of ATSS.

    Attributes:
      num_classes: number of classes K.
      levels: number of levels of the head.
      options: thresholds and largest numbers of detections.
    """

    num_classes: int
    levels: int
    options: Options

    def _anchors(self, images: jax.Array) -> Anchors:
        return Anchors(images.shape[1:3], self.levels)

    def prepare(self, batch: Mapping[str, jax.Array], key: jax.Array) -> dict[str, Any]:
        """Returns the `targets` of a global batch, and the weights of each image, `weight` and `box_weight`, `[B]`.

        `loss` multiplies sums over the anchors of each image by these weights. With `weight`, the mean over images is
        the sum over the global batch divided by its number of positive anchors. With `box_weight`, it is divided by the
        sum of the centerness of these anchors instead.
        """
        anchors = self._anchors(batch["image"])
        each = map_examples(lambda *given: assign(anchors, *given, self.num_classes))
        targets = each(batch["boxes"], batch["labels"], batch["size"])
        size = len(batch["image"])
        weights = [jnp.full(size, size / number) for number in count_targets(targets, self.num_classes)]
        return {"targets": targets, "weight": weights[0], "box_weight": weights[1]}

    def loss(self, model: ATSS, batch: Mapping[str, Any], keys: jax.Array | None) -> tuple[jax.Array, Metrics]:
        """Returns the mean loss of prepared images, and its parts: of classes, boxes and centerness."""
        logits, deltas, centerness = (_flat(levels) for levels in model(batch["image"], keys))
        anchors = self._anchors(batch["image"])
        focal, boxes, centre = image_losses(logits, deltas, centerness[..., 0], batch["targets"], anchors)
        parts = {
            "class_loss": jnp.mean(focal * batch["weight"]),
            "box_loss": jnp.mean(boxes * batch["box_weight"]),
            "centerness_loss": jnp.mean(centre * batch["weight"]),
        }
        return sum(parts.values()), parts

    def counts(self, model: ATSS, batch: Mapping[str, Any], keys: jax.Array) -> None:
        """Returns None: the divisors of the losses do not depend on the model, see `prepare`."""

    def detect(self, model: ATSS, batch: Mapping[str, jax.Array]) -> Detections:
        """Returns the detections of a batch of normalized images, in pixels of the stored images."""
        anchors = self._anchors(batch["image"])

        def one(outputs: Any, size: jax.Array, scale: jax.Array) -> Detections:
            return detect(*outputs, size, scale, anchors, self.options)

        return map_examples(one)(model(batch["image"]), batch["size"], batch["scale"])


def _flat(levels: Sequence[jax.Array]) -> jax.Array:
    """Concatenates maps `[B, h, w, C]` or `[B, h, w]` of all levels to an array `[B, A, C]` or `[B, A, 1]`."""
    return jnp.concatenate([level.reshape(len(level), level.shape[1] * level.shape[2], -1) for level in levels], axis=1)


def image_losses(
    logits: jax.Array, deltas: jax.Array, centerness: jax.Array, targets: Targets, anchors: Anchors
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the focal loss, the box loss and the loss of the centerness, each summed over anchors, `[B]`.

    The box loss is twice the GIoU loss, weighted by the centerness of each anchor.

    Args:
      logits: logits of the classes, `[B, A, K]`.
      deltas: deltas of the anchors, `[B, A, 4]`.
      centerness: logits of the centerness, `[B, A]`.
      targets: targets of the batch.
      anchors: the anchors.
    """
    classes = logits.shape[-1]
    used, positive = targets.labels >= 0, (targets.labels >= 0) & (targets.labels < classes)
    focal = optax.sigmoid_focal_loss(logits, jax.nn.one_hot(targets.labels, classes), alpha=_ALPHA, gamma=_GAMMA)
    focal = jnp.where(used[..., None], focal, 0).sum((1, 2))
    boxes = decode(jnp.asarray(anchors.boxes), deltas, _STDS)
    losses = jnp.where(positive, (1 - giou(boxes, targets.boxes)) * targets.centerness, 0).sum(axis=1)
    centre = optax.sigmoid_binary_cross_entropy(centerness, targets.centerness)
    return focal, _BOX_WEIGHT * losses, jnp.where(positive, centre, 0).sum(axis=1)


def detect(
    logits: Sequence[jax.Array],
    deltas: Sequence[jax.Array],
    centerness: Sequence[jax.Array],
    size: jax.Array,
    scale: jax.Array,
    anchors: Anchors,
    options: Options,
) -> Detections:
    """Returns the detections in one image, in pixels of the stored image.

    Args:
      logits: logits of the classes for each level, `[h, w, K]`.
      deltas: deltas for each level, `[h, w, 4]`.
      centerness: logits of the centerness for each level, `[h, w]`.
      size: height and width of the resized image without padding, `[2]`.
      scale: factors `[4]` by which resizing multiplied x1, y1, x2 and y2, see `host.resized_image`.
      anchors: the anchors.
      options: thresholds and largest numbers of boxes.
    """
    boxes, scores, factors, first = [], [], [], 0
    places, used = jnp.asarray(anchors.boxes), anchors.inside(size)
    for level, count in enumerate(anchors.counts):
        probabilities = jax.nn.sigmoid(logits[level].reshape(count, -1))
        centre = jax.nn.sigmoid(centerness[level].reshape(count))
        inside = used[first : first + count]
        best = jnp.where(inside, (probabilities * centre[:, None]).max(axis=-1), -1.0)
        kept = jax.lax.top_k(best, min(options.candidates, count))[1]
        found = decode(places[first : first + count][kept], deltas[level].reshape(count, 4)[kept], _STDS, size)
        boxes.append(found / scale)
        scores.append(jnp.where(inside[kept, None], probabilities[kept], 0))
        factors.append(centre[kept])
        first += count
    return multiclass_nms(
        jnp.concatenate(boxes),
        jnp.concatenate(scores),
        factors=jnp.concatenate(factors),
        score_threshold=options.score,
        iou_threshold=options.iou,
        candidates=options.nms_candidates,
        keep=options.detections,
    )
