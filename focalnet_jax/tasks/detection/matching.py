"""Matches boxes to objects by their overlaps and draws samples, like mmdetection's MaxIoUAssigner and RandomSampler."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from focalnet_jax.ops.boxes import areas, pairwise_iou

BACKGROUND, IGNORED = -1, -2
"""Results of `match` for a box without an object, and for a box that is not used."""


@dataclass(frozen=True)
class Thresholds:
    """Thresholds of the overlap (intersection over union) of a box and an object, see `match`.

    Attributes:
      positive: smallest overlap at which a box is matched to the object that it overlaps most.
      negative: a box is background if its largest overlap with an object is below this number.
      best: smallest overlap at which an object is also matched to the boxes that overlap it most, or None for no such
        matches.
    """

    positive: float
    negative: float
    best: float | None


def match(
    boxes: jax.Array, used: jax.Array, objects: jax.Array, labels: jax.Array, thresholds: Thresholds
) -> jax.Array:
    """Returns the match of each box, `[P]` int32: the slot of an object, `BACKGROUND` or `IGNORED`.

    A box is matched to the object that it overlaps most (the first of equal ones), if the overlap is at least
    `thresholds.positive`. The box is background if the overlap is below `thresholds.negative`, and ignored between the
    two thresholds. If `thresholds.best` is set, each object is also matched to the boxes that overlap it most, if the
    overlap is at least this number. This match replaces the result above; if a box has several, the last object counts.

    Args:
      boxes: boxes `[P, 4]`.
      used: which boxes are used, `[P]` bool.
      objects: boxes of the objects, `[N, 4]`.
      labels: classes of the objects, `[N]`, -1 in unused slots.
      thresholds: thresholds of the overlaps.
    """
    exists = existing(objects, labels)
    overlaps = jnp.where(used[:, None] & exists, pairwise_iou(boxes, objects), -1.0)
    # The overlaps are compared with their maxima below. XLA must not compute them twice with different rounding.
    overlaps = jax.lax.optimization_barrier(overlaps)
    largest, nearest = overlaps.max(axis=1), jnp.argmax(overlaps, axis=1).astype(jnp.int32)
    matched = jnp.where(largest < thresholds.negative, BACKGROUND, IGNORED)
    matched = jnp.where(largest >= thresholds.positive, nearest, matched)
    if thresholds.best is not None:
        best = overlaps.max(axis=0)
        equal = (overlaps == best) & (best >= thresholds.best) & exists
        last = jnp.max(jnp.where(equal, jnp.arange(len(labels), dtype=jnp.int32), -1), axis=1)
        matched = jnp.where(last >= 0, last, matched)
    return jnp.where(used, matched, IGNORED).astype(jnp.int32)


def existing(objects: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns whether each slot has an object, `[..., N]` bool.

    An object whose box has no area, for example after a resize, does not count: its deltas would not be finite.

    Args:
      objects: boxes of the objects, `[..., N, 4]`.
      labels: classes of the objects, `[..., N]`, -1 in unused slots.
    """
    return (labels >= 0) & (areas(objects) > 0)


@dataclass(frozen=True)
class Samples:
    """A fixed number S of sampled boxes of an image, or of each image of a batch.

    Boxes that are matched to an object come first, then background. Both groups have ascending indices, as in
    mmdetection.

    Attributes:
      boxes: index of each box, `[..., S]` int32.
      objects: slot of the object of each box, `[..., S]` int32; `BACKGROUND` for background.
      used: whether the sample exists, `[..., S]` bool. If there are too few boxes, the last samples do not exist.
    """

    boxes: jax.Array
    objects: jax.Array
    used: jax.Array

    @property
    def positive(self) -> jax.Array:
        """Whether each sample exists and is matched to an object, `[..., S]` bool."""
        return self.used & (self.objects >= 0)


jax.tree_util.register_dataclass(Samples)


def draw(matched: jax.Array, key: jax.Array, number: int, positives: int) -> Samples:
    """Returns samples that are drawn uniformly from the matched boxes and from the background, without replacement.

    Background fills the places that matched boxes leave.

    Args:
      matched: result of `match`, `[P]`.
      key: PRNG key.
      number: number S of samples.
      positives: largest number of samples that are matched to an object.
    """
    order = jax.random.uniform(key, matched.shape)

    def first(eligible: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
        ranks, places = jax.lax.top_k(jnp.where(eligible, order, -1.0), min(count, len(matched)))
        return places.astype(jnp.int32), ranks >= 0

    objects, found = first(matched >= 0, positives)
    others, exist = first(matched == BACKGROUND, number)
    exist &= jnp.arange(len(others)) < number - found.sum()
    places, used = jnp.concatenate([objects, others]), jnp.concatenate([found, exist])
    group = jnp.where(used, jnp.concatenate([jnp.zeros_like(objects), jnp.ones_like(others)]), 2)
    kept = jnp.lexsort((places, group))[:number]
    samples = Samples(places[kept], matched[places[kept]], used[kept])
    missing = number - len(kept)
    return jax.tree.map(lambda each: jnp.pad(each, (0, missing)), samples)
