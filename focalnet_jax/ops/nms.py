"""Non-maximum suppression with fixed shapes, equal to the greedy algorithm."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from focalnet_jax.ops.boxes import pairwise_iou


class Detections(NamedTuple):
    """A fixed number of detections of an image, the highest score first.

    Attributes:
      boxes: `[D, 4]`, 0 in unused places.
      scores: `[D]`, 0 in unused places.
      labels: classes `[D]` int32, -1 in unused places.
      overflow: number of scores above the threshold that were not considered, int32.
    """

    boxes: jax.Array
    scores: jax.Array
    labels: jax.Array
    overflow: jax.Array


def nms(boxes: jax.Array, iou_threshold: float, valid: jax.Array | None = None) -> jax.Array:
    """Returns which boxes greedy non-maximum suppression keeps, `[n]` bool.

    A box is kept if its intersection over union with every kept box before it is at most the threshold.

    Args:
      boxes: boxes `[n, 4]`, the best first.
      iou_threshold: largest overlap of two kept boxes.
      valid: which boxes exist, `[n]` bool; by default all. Others are not kept.
    """
    count = len(boxes)
    valid = jnp.ones(count, bool) if valid is None else valid
    before = jnp.tri(count, k=-1, dtype=bool)  # [i, j]: j is better than i
    removes = (pairwise_iou(boxes, boxes) > iou_threshold) & before & valid & valid[:, None]

    # The decisions about the first boxes are final after one round, those that depend on them after the next, and so
    # on. The only fixed point is the result of the greedy algorithm.
    def unfinished(state: tuple[jax.Array, jax.Array]) -> jax.Array:
        return jnp.any(state[0] != state[1])

    def next_round(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        kept = state[1]
        return kept, valid & ~jnp.any(removes & kept, axis=1)

    return jax.lax.while_loop(unfinished, next_round, (~valid, valid))[1]


def multiclass_nms(
    boxes: jax.Array,
    scores: jax.Array,
    *,
    score_threshold: float,
    iou_threshold: float,
    candidates: int,
    keep: int,
    factors: jax.Array | None = None,
) -> Detections:
    """Returns the best detections after non-maximum suppression within each class, like mmdetection's multiclass_nms.

    Args:
      boxes: boxes `[n, 4]` of all classes, or `[n, K, 4]`.
      scores: scores `[n, K]`. A NaN score is never detected.
      score_threshold: detections have a score above it.
      iou_threshold: largest overlap of two detections of a class.
      candidates: largest number of pairs of a box and a class that are considered; the best are.
      keep: number D of detections.
      factors: numbers `[n]` that the scores are multiplied by after they are compared with the threshold, or None.
    """
    count, classes = scores.shape
    above = scores > score_threshold
    ranked = scores if factors is None else scores * factors[:, None]
    ranked = jnp.where(above, ranked, -jnp.inf).ravel()
    candidates = min(candidates, count * classes)
    best, places = jax.lax.top_k(ranked, candidates)
    valid = best > -jnp.inf
    labels = places % classes
    found = boxes[places // classes] if boxes.ndim == 2 else boxes.reshape(-1, 4)[places]
    # As in mmdetection, boxes of different classes are moved apart, so that they never overlap.
    apart = jnp.where(valid[:, None], found, 0)
    apart += (labels * (jnp.max(apart, initial=0) + 1))[:, None].astype(found.dtype)
    kept = nms(apart, iou_threshold, valid)
    order = jnp.argsort(~kept, stable=True)[:keep]
    order = jnp.pad(order, (0, keep - len(order)), constant_values=-1)
    used = kept[order] & (jnp.arange(keep) < candidates)
    return Detections(
        jnp.where(used[:, None], found[order], 0),
        jnp.where(used, best[order], 0),
        jnp.where(used, labels[order], -1).astype(jnp.int32),
        (above.sum() - valid.sum()).astype(jnp.int32),
    )
