"""Non-maximum suppression with fixed shapes, equal to the greedy algorithm."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from focalnet_jax.ops.boxes import areas

_BLOCK = 256  # boxes per block in `sorted_nms`


class Detections(NamedTuple):
    """A fixed number of detections of an image, the highest score first.

    Attributes:
      boxes: `[D, 4]`, 0 in unused places.
      scores: `[D]`, 0 in unused places.
      labels: classes `[D]` int32, -1 in unused places.
      overflow: number of scores above the threshold that were ignored, because there are too many, int32.
      finite: whether all scores and boxes before the suppression are finite.
      masks: for each detection, the probability that each cell of an h x w grid over its box belongs to the object,
        `[D, h, w]` float32; None without masks.
    """

    boxes: jax.Array
    scores: jax.Array
    labels: jax.Array
    overflow: jax.Array
    finite: jax.Array
    masks: jax.Array | None = None


def nms(boxes: jax.Array, scores: jax.Array, iou_threshold: float, valid: jax.Array | None = None) -> jax.Array:
    """Returns which boxes greedy non-maximum suppression keeps, `[n]` bool.

    A box is kept if its intersection over union with each kept box of a higher score is at most the threshold. Of
    boxes with equal scores, an earlier box counts as higher. As in mmcv, boxes without area are always kept.

    Args:
      boxes: boxes `[n, 4]`.
      scores: scores `[n]`; boxes whose score is NaN are not kept.
      iou_threshold: largest overlap of two kept boxes.
      valid: which boxes exist, `[n]` bool; by default all. Boxes that do not exist are not kept.
    """
    exists = ~jnp.isnan(scores) if valid is None else valid & ~jnp.isnan(scores)
    order = jnp.argsort(jnp.where(exists, -scores, jnp.inf), stable=True)
    kept = sorted_nms(boxes[order], iou_threshold, exists[order])
    return jnp.zeros(len(boxes), bool).at[order].set(kept)


def sorted_nms(boxes: jax.Array, iou_threshold: float, valid: jax.Array, block: int = _BLOCK) -> jax.Array:
    """Returns which boxes greedy non-maximum suppression keeps, `[n]` bool, if boxes are sorted by score.

    The boxes are processed in blocks, one after another, so that memory grows with n instead of its square.

    Args:
      boxes: boxes `[n, 4]`, the highest score first.
      iou_threshold: largest overlap of two kept boxes.
      valid: which boxes exist, `[n]` bool.
      block: number of boxes in a block.
    """
    count = len(boxes)
    block = min(block, count)
    if not count:
        return valid
    padding = -count % block
    boxes = jnp.pad(jax.lax.stop_gradient(boxes), ((0, padding), (0, 0)))
    valid = jnp.pad(valid, (0, padding))
    earlier = jnp.tri(block, k=-1, dtype=bool)  # [i, j]: j is before i

    def decide(place: jax.Array, kept: jax.Array) -> jax.Array:
        first = place * block
        here = jax.lax.dynamic_slice_in_dim(boxes, first, block)

        def suppress(before: jax.Array, suppressed: jax.Array) -> jax.Array:
            others = jax.lax.dynamic_slice_in_dim(boxes, before * block, block)
            among = jax.lax.dynamic_slice_in_dim(kept, before * block, block)
            return suppressed | jnp.any(_overlap(here, others, iou_threshold) & among, axis=1)

        suppressed = jax.lax.fori_loop(0, place, suppress, jnp.zeros(block, bool))
        possible = jax.lax.dynamic_slice_in_dim(valid, first, block) & ~suppressed
        decided = _fixed_point(_overlap(here, here, iou_threshold) & earlier, possible)
        return jax.lax.dynamic_update_slice_in_dim(kept, decided, first, axis=0)

    # Blocks after the last valid box have nothing to decide.
    used = jnp.max(jnp.where(valid, jnp.arange(count + padding) // block + 1, 0))
    return jax.lax.fori_loop(0, used, decide, jnp.zeros(count + padding, bool))[:count]


def _fixed_point(removes: jax.Array, valid: jax.Array) -> jax.Array:
    """Returns which of n boxes are kept, `[n]` bool: valid boxes that no kept box removes.

    A kept box j removes box i if `removes[i, j]`, which is False unless j < i. The decisions about boxes that no box
    can remove are final after one round. The decisions that depend only on these are final after the next round, and so
    on. The only fixed point is the result of the greedy algorithm.
    """

    def unfinished(state: tuple[jax.Array, jax.Array]) -> jax.Array:
        return jnp.any(state[0] != state[1])

    def next_round(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        kept = state[1]
        return kept, valid & ~jnp.any(removes & kept, axis=1)

    return jax.lax.while_loop(unfinished, next_round, (~valid, valid))[1]


def _overlap(a: jax.Array, b: jax.Array, iou_threshold: float) -> jax.Array:
    """Returns whether boxes `[n, 4]` overlap boxes `[m, 4]` by more than the threshold, `[n, m]`.

    As in mmcv, and unlike in `boxes.iou`, the union has no lower limit: 0 / 0 is NaN, which is not above the threshold.
    """
    a, b = a[:, None], b[None]
    both = areas(jnp.concatenate([jnp.maximum(a[..., :2], b[..., :2]), jnp.minimum(a[..., 2:], b[..., 2:])], axis=-1))
    whole = [(boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1]) for boxes in (a, b)]
    return both / (whole[0] + whole[1] - both) > iou_threshold


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

    A box that is not finite, or whose score is NaN before or after the multiplication by `factors`, is never detected.

    Args:
      boxes: boxes `[n, 4]`, the same for all classes, or `[n, K, 4]`, one per class.
      scores: scores `[n, K]`.
      score_threshold: only scores above this number are detected.
      iou_threshold: largest overlap of two detections of a class.
      candidates: number of pairs of a box and a class that are considered: those with the highest scores.
      keep: number D of detections, including unused places.
      factors: numbers `[n]` that the scores are multiplied by after they are compared with the threshold, or None.
    """
    count, classes = scores.shape
    ranked = scores if factors is None else scores * factors[:, None]
    finite = jnp.isfinite(boxes).all(axis=-1)
    above = (scores > score_threshold) & ~jnp.isnan(ranked) & (finite[:, None] if boxes.ndim == 2 else finite)
    candidates = min(candidates, count * classes)
    best, places = jax.lax.top_k(jnp.where(above, ranked, -jnp.inf).ravel(), candidates)
    valid = above.ravel()[places]
    labels = places % classes
    found = boxes[places // classes] if boxes.ndim == 2 else boxes.reshape(-1, 4)[places]
    found = jnp.where(valid[:, None], found, 0)
    # As in mmcv, boxes of different classes are moved apart, so that they do not overlap.
    largest = jnp.max(found, initial=-jnp.inf, where=valid[:, None])
    apart = found + (labels.astype(found.dtype) * (jnp.where(valid.any(), largest, 0) + 1))[:, None]
    kept = sorted_nms(apart, iou_threshold, valid)
    order = jnp.argsort(~kept, stable=True)[:keep]
    used = jnp.pad(kept[order], (0, keep - len(order)))
    order = jnp.pad(order, (0, keep - len(order)))
    return Detections(
        jnp.where(used[:, None], found[order], 0),
        jnp.where(used, best[order], 0),
        jnp.where(used, labels[order], -1).astype(jnp.int32),
        (above.sum() - valid.sum()).astype(jnp.int32),
        finite.all() & jnp.isfinite(ranked).all(),
    )
