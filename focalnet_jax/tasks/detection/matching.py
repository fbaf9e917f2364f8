"""Matches boxes to objects by their overlaps and draws samples, like mmdetection's MaxIoUAssigner and RandomSampler."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from focalnet_jax.ops.boxes import areas, pairwise_iou

BACKGROUND, IGNORED = -1, -2
"""Matches of a box without an object, and of a box that is not used."""


@dataclass(frozen=True)
class Thresholds:
    """Overlaps (intersection over union) that decide about a match.

    Attributes:
      positive: smallest overlap with an object of a box that is matched to it.
      negative: boxes whose largest overlap is below it are background.
      best: smallest overlap at which an object is also matched to the boxes with its largest overlap; None: never.
    """

    positive: float
    negative: float
    best: float | None


def match(
    boxes: jax.Array, used: jax.Array, objects: jax.Array, labels: jax.Array, thresholds: Thresholds
) -> jax.Array:
    """Returns the object of each box, `[P]` int32: its slot, `BACKGROUND` or `IGNORED`.

    A box belongs to the object with the largest overlap, the first one of several. But the boxes with the largest
    overlap with an object belong to this object, the last one of several, if the overlap reaches `thresholds.best`.

    Args:
      boxes: boxes `[P, 4]`.
      used: which boxes are used, `[P]` bool.
      objects: boxes of the objects, `[N, 4]`.
      labels: their classes `[N]`, -1 in unused slots.
      thresholds: overlaps that decide.
    """
    exists = existing(objects, labels)
    overlaps = jnp.where(used[:, None] & exists, pairwise_iou(boxes, objects), -1.0)
    # Compared with their own maxima below, so they must not be computed twice with different rounding.
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

    A box without area, such as one that a resize made too small, has no object: its deltas would not be finite.

    Args:
      objects: boxes `[..., N, 4]`.
      labels: their classes `[..., N]`, -1 in unused slots.
    """
    return (labels >= 0) & (areas(objects) > 0)


@dataclass(frozen=True)
class Samples:
    """A fixed number S of boxes of an image, or of each image of a batch: matched ones first, then background.

    Both groups have ascending indices, as in mmdetection.

    Attributes:
      boxes: index of each box, `[..., S]` int32.
      objects: slot of its object, `[..., S]` int32, or `BACKGROUND`.
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
    """Draws samples uniformly from the matched boxes and from the background, without replacement.

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
