"""Targets of ATSS (arXiv 1912.02424), assigned like mmdetection's ATSSAssigner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from focalnet_jax.ops.boxes import pairwise_iou
from focalnet_jax.tasks.detection.anchors import Anchors

_CANDIDATES = 9  # anchors per level whose IoU decides the threshold of an object
_CENTRE = 0.01  # smallest distance in pixels of the centre of a positive anchor from the sides of its box


@dataclass(frozen=True)
class Targets:
    """Targets of the head for an image or a batch, for the A anchors of all levels.

    Attributes:
      labels: class of the object of each anchor, `[..., A]` int32: K for background, -1 for an anchor that is not used.
      boxes: box of the object of each anchor, `[..., A, 4]`; 0 for background.
      centerness: centerness of each anchor in the box of its object, `[..., A]`; 0 for background.
    """

    labels: jax.Array
    boxes: jax.Array
    centerness: jax.Array


jax.tree_util.register_dataclass(Targets)


def assign(anchors: Anchors, boxes: jax.Array, labels: jax.Array, size: jax.Array, num_classes: int) -> Targets:
    """Returns the targets of an image by adaptive training sample selection.

    For each object, the `_CANDIDATES` anchors per level nearest to its centre are candidates. A candidate is positive
    if its IoU with the object is at least the mean plus the standard deviation over the candidates, and if its centre
    is inside the object's box. An anchor that is positive for several objects gets the one with the largest IoU.

    Args:
      anchors: the anchors.
      boxes: boxes of the objects, `[N, 4]`.
      labels: classes of the objects, `[N]`, -1 in unused slots.
      size: height and width of the unpadded image, `[2]`.
      num_classes: number of classes K, the label of the background.
    """
    places, used = jnp.asarray(anchors.boxes), anchors.inside(size)
    overlaps = pairwise_iou(places, boxes)  # [A, N]
    centres, aims = _centres(places), _centres(boxes)
    distances = jnp.sqrt(jnp.sum((centres[:, None] - aims[None]) ** 2, axis=-1))
    distances = jnp.where(used[:, None], distances, jnp.inf)
    chosen = _candidates(distances, anchors.counts)  # [C, N]
    objects = jnp.arange(len(boxes))
    valid = used[chosen]
    ious = overlaps[chosen, objects]
    count = jnp.maximum(valid.sum(axis=0), 1)
    mean = jnp.where(valid, ious, 0).sum(axis=0) / count
    spread = jnp.where(valid, (ious - mean) ** 2, 0).sum(axis=0) / jnp.maximum(count - 1, 1)
    corners = boxes.reshape(-1, 2, 2)
    sides = jnp.concatenate([centres[chosen] - corners[:, 0], corners[:, 1] - centres[chosen]], axis=-1)
    # With a single candidate, PyTorch's standard deviation is NaN, so the candidate is not positive.
    positive = valid & (ious >= mean + jnp.sqrt(spread)) & (sides.min(axis=-1) > _CENTRE) & (count > 1)
    positive &= labels >= 0
    best = jnp.full(overlaps.shape, -jnp.inf).at[chosen, objects].set(jnp.where(positive, ious, -jnp.inf))
    which = jnp.argmax(best, axis=1)
    found = jnp.isfinite(best.max(axis=1))
    matched = boxes[which]
    found_labels = jnp.where(found, labels[which], num_classes)
    return Targets(
        jnp.where(used, found_labels, -1),
        jnp.where(found[:, None], matched, 0.0),
        jnp.where(found, _centerness(centres, matched), 0.0),
    )


def _candidates(distances: jax.Array, counts: Sequence[int]) -> jax.Array:
    """Returns the indices `[C, N]` of the anchors nearest to each object on each level; among equals, the first."""
    found, first = [], 0
    for count in counts:
        level = distances[first : first + count]
        found.append(first + jax.lax.top_k(-level.T, min(_CANDIDATES, count))[1].T)
        first += count
    return jnp.concatenate(found)


def _centres(boxes: jax.Array) -> jax.Array:
    return (boxes[..., :2] + boxes[..., 2:]) / 2


def _centerness(centres: jax.Array, boxes: jax.Array) -> jax.Array:
    """Returns the centerness (arXiv 1904.01355, equation 3) of points `[A, 2]` in boxes `[A, 4]`."""
    before, after = centres - boxes[:, :2], boxes[:, 2:] - centres
    ratios = jnp.minimum(before, after) / jnp.maximum(jnp.maximum(before, after), jnp.finfo(jnp.float32).tiny)
    return jnp.sqrt(jnp.maximum(ratios[:, 0] * ratios[:, 1], 0))


def count_targets(targets: Targets, num_classes: int) -> tuple[jax.Array, jax.Array]:
    """Returns the divisors of the losses of a batch: the number of positive anchors, and the sum of their centerness.

    As in mmdetection, an image without positive anchors counts as if it had one, and a sum of 0 is replaced by 1.
    """
    positive = (targets.labels >= 0) & (targets.labels < num_classes)
    total = targets.centerness.sum()
    return jnp.maximum(positive.sum(axis=-1), 1).sum(), jnp.where(total < jnp.finfo(jnp.float32).eps, 1.0, total)
