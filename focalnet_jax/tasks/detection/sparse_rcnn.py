"""Losses and detections of Sparse R-CNN (arXiv 2011.12450), computed like mmdetection's SparseRoIHead."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from focalnet_jax.distributed.activations import map_examples
from focalnet_jax.model.heads.sparse_rcnn import STAGES, SparseRCNN
from focalnet_jax.ops.boxes import decode, giou
from focalnet_jax.ops.nms import Detections
from focalnet_jax.tasks.detection.matching import BACKGROUND, existing
from focalnet_jax.tasks.detection.options import Options
from focalnet_jax.tasks.task import Metrics

_STDS = (0.5, 0.5, 1.0, 1.0)  # of the deltas
_ALPHA, _GAMMA = 0.25, 2.0  # of the focal loss and of the matching cost of classes
_CLASS_WEIGHT, _BOX_WEIGHT, _GIOU_WEIGHT = 2.0, 5.0, 2.0  # of the losses and of the matching costs


@dataclass(frozen=True)
class SparseRCNNMethod:
    """`Method` of Sparse R-CNN.

    Attributes:
      num_classes: number of classes K.
      proposals: number of proposals N.
      options: thresholds and largest numbers of detections.
    """

    num_classes: int
    proposals: int
    options: Options

    def prepare(self, batch: Mapping[str, jax.Array], key: jax.Array) -> dict[str, Any]:
        """Returns `weight` `[B]`: B divided by the number of matches in the global batch, or by 1 without matches.

        `loss` multiplies the sum over the proposals of each image by `weight`. Objects and proposals are matched one to
        one, so an image has at most N matches.
        """
        number = jnp.minimum(existing(batch["boxes"], batch["labels"]).sum(axis=1), self.proposals).sum()
        count = len(batch["labels"])
        return {"weight": jnp.full(count, count / jnp.maximum(number, 1))}

    def loss(self, model: SparseRCNN, batch: Mapping[str, Any], keys: jax.Array | None) -> tuple[jax.Array, Metrics]:
        """Returns the mean loss of prepared images, and its parts: the class, box and GIoU loss of each stage."""
        parts: Metrics = {}
        for number, (logits, boxes) in enumerate(self._stages(model, batch["image"], batch["size"], keys), 1):
            objects = batch["boxes"], batch["labels"], batch["size"]
            matched = map_examples(match_one_to_one)(*jax.lax.stop_gradient((logits, boxes)), *objects)
            losses = jax.vmap(self._losses)(logits, boxes, *objects, matched)
            parts |= {
                f"stage{number}_{name}": jnp.mean(each * batch["weight"])
                for name, each in zip(("class_loss", "box_loss", "giou_loss"), losses, strict=True)
            }
        return sum(parts.values()), parts

    def _stages(
        self, model: SparseRCNN, images: jax.Array, sizes: jax.Array, keys: jax.Array | None
    ) -> list[tuple[jax.Array, jax.Array]]:
        """Returns, for each stage, the logits `[B, N, K]` and the boxes in pixels `[B, N, 4]`."""
        maps, found = model.maps(images, keys), []
        places, features = model.proposals()
        centres, halves = places[:, :2], places[:, 2:] / 2
        boxes = jnp.concatenate([centres - halves, centres + halves], axis=-1) * _sides(sizes)[:, None]
        features = jnp.broadcast_to(features, (images.shape[0], *features.shape))
        for stage in range(STAGES):
            logits, deltas, features = model.box_head(model.regions(maps, boxes), features, stage)
            boxes = decode(boxes, deltas, _STDS)
            found.append((logits, boxes))
            boxes = jax.lax.stop_gradient(boxes)
        return found

    def _losses(
        self,
        logits: jax.Array,
        boxes: jax.Array,
        objects: jax.Array,
        labels: jax.Array,
        size: jax.Array,
        matched: jax.Array,
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns the weighted losses of an image, summed over proposals: focal loss, L1 loss of boxes, and GIoU loss.

        Args:
          logits: logits of the classes, `[N, K]`.
          boxes: boxes of the proposals in pixels, `[N, 4]`.
          objects: boxes of the objects in pixels, `[S, 4]`.
          labels: classes of the objects, `[S]`, -1 in unused slots.
          size: height and width of the image without padding, `[2]`.
          matched: index of each proposal's object, -1 without one, `[N]`.
        """
        positive, slots = matched >= 0, jnp.maximum(matched, 0)
        wanted = jax.nn.one_hot(jnp.where(positive, labels[slots], self.num_classes), self.num_classes)
        focal = optax.sigmoid_focal_loss(logits, wanted, alpha=_ALPHA, gamma=_GAMMA).sum()
        targets = jnp.where(positive[:, None], objects[slots], jax.lax.stop_gradient(boxes))
        differences = (jnp.abs(boxes - targets) / _sides(size)).sum(axis=-1)
        overlaps = 1 - giou(boxes, targets)
        differences, overlaps = (jnp.where(positive, each, 0).sum() for each in (differences, overlaps))
        return _CLASS_WEIGHT * focal, _BOX_WEIGHT * differences, _GIOU_WEIGHT * overlaps

    def counts(self, model: SparseRCNN, batch: Mapping[str, Any], keys: jax.Array) -> None:
        """Returns None: the divisor of the losses does not depend on the model, see `prepare`."""

    def detect(self, model: SparseRCNN, batch: Mapping[str, jax.Array]) -> Detections:
        """Returns the detections of a batch of normalized images, in pixels of the stored images.

        Detections are the pairs of a proposal and a class with the highest scores. There is no non-maximum suppression.
        """
        logits, boxes = self._stages(model, batch["image"], batch["size"], None)[-1]
        return map_examples(self._best)(jax.nn.sigmoid(logits), boxes / batch["scale"][:, None])

    def _best(self, scores: jax.Array, boxes: jax.Array) -> Detections:
        """Returns the detections in an image, from scores `[N, K]` and boxes `[N, 4]` in pixels of the stored image."""
        finite = jnp.isfinite(boxes).all(axis=-1)
        valid = finite[:, None] & (scores > self.options.score)  # False for NaN
        number, missing = min(self.options.detections, scores.size), max(0, self.options.detections - scores.size)
        best, places = jax.lax.top_k(jnp.where(valid, scores, -1.0).ravel(), number)
        used = best >= 0
        found = Detections(
            jnp.where(used[:, None], boxes[places // scores.shape[1]], 0),
            jnp.where(used, best, 0),
            jnp.where(used, places % scores.shape[1], -1).astype(jnp.int32),
            jnp.zeros((), jnp.int32),
            finite.all() & jnp.isfinite(scores).all(),
        )
        return found._replace(
            boxes=jnp.pad(found.boxes, ((0, missing), (0, 0))),
            scores=jnp.pad(found.scores, (0, missing)),
            labels=jnp.pad(found.labels, (0, missing), constant_values=-1),
        )


def match_one_to_one(
    logits: jax.Array, boxes: jax.Array, objects: jax.Array, labels: jax.Array, size: jax.Array
) -> jax.Array:
    """Returns the slot of the object of each proposal, `[N]` int32, or `BACKGROUND`.

    Objects and proposals are matched one to one so that the sum of the costs is minimal. If there are more objects than
    proposals, some objects remain unmatched. A cost that is NaN or infinite counts as larger than all others.

    Args:
      logits: logits of the classes, `[N, K]`.
      boxes: boxes of the proposals in pixels, `[N, 4]`.
      objects: boxes of the objects in pixels, `[S, 4]`.
      labels: classes of the objects, `[S]`, -1 in unused slots.
      size: height and width of the image without padding, `[2]`.
    """
    costs = _costs(logits, boxes, objects, labels, size)
    exists = existing(objects, labels)
    valid = jnp.isfinite(costs) & exists
    # An invalid match costs more than every valid one. With a much larger number, rounding would lose the differences
    # between the other costs.
    costs = jnp.where(valid, costs, 1 + jnp.max(costs, initial=0, where=valid))
    proposals, slots = optax.assignment.hungarian_algorithm(costs)
    slots = jnp.where(exists[slots], slots, BACKGROUND).astype(jnp.int32)
    return jnp.full(len(logits), BACKGROUND, jnp.int32).at[proposals].set(slots)


def _costs(logits: jax.Array, boxes: jax.Array, objects: jax.Array, labels: jax.Array, size: jax.Array) -> jax.Array:
    """Returns the cost of matching each proposal with each object, `[N, S]`, see `match_one_to_one`."""
    probabilities, eps = jax.nn.sigmoid(logits), 1e-12
    negative = -jnp.log(1 - probabilities + eps) * (1 - _ALPHA) * probabilities**_GAMMA
    positive = -jnp.log(probabilities + eps) * _ALPHA * (1 - probabilities) ** _GAMMA
    classes = (positive - negative)[:, jnp.maximum(labels, 0)]
    sides = _sides(size)
    differences = jnp.abs((boxes / sides)[:, None] - (objects / sides)[None]).sum(axis=-1)
    return _CLASS_WEIGHT * classes + _BOX_WEIGHT * differences - _GIOU_WEIGHT * giou(boxes[:, None], objects[None])


def _sides(sizes: jax.Array) -> jax.Array:
    """Returns (width, height, width, height) `[..., 4]` float32 for `sizes` (height, width) `[..., 2]`."""
    return jnp.concatenate([sizes[..., ::-1], sizes[..., ::-1]], axis=-1).astype(jnp.float32)
