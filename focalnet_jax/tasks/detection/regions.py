"""Sampled RoIs, and the losses of box heads and mask heads, computed like mmdetection's StandardRoIHead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from focalnet_jax.distributed.activations import map_examples
from focalnet_jax.model.heads.roi_heads import MASK_SIDE
from focalnet_jax.ops.boxes import encode
from focalnet_jax.tasks.detection.mask_targets import mask_targets
from focalnet_jax.tasks.detection.matching import IGNORED, Samples, Thresholds, existing, match
from focalnet_jax.tasks.detection.rpn import Proposals, delta_losses


@dataclass(frozen=True)
class Regions:
    """A fixed number R of RoIs of each image. RoIs that are matched to an object come first.

    Attributes:
      boxes: boxes `[B, R, 4]` in pixels of the resized image.
      labels: class of the object of each RoI, `[B, R]` int32; K for background.
      objects: slot of the object of each RoI, `[B, R]` int32; `BACKGROUND` for background.
      targets: box of the object of each RoI, `[B, R, 4]`; for background, the RoI itself.
      used: whether the RoI exists, `[B, R]` bool.
    """

    boxes: jax.Array
    labels: jax.Array
    objects: jax.Array
    targets: jax.Array
    used: jax.Array

    @property
    def positive(self) -> jax.Array:
        """Whether each RoI exists and has an object, `[B, R]` bool."""
        return self.used & (self.objects >= 0)

    def first(self, count: int) -> Regions:
        """Returns the first `count` RoIs of each image."""
        return jax.tree.map(lambda each: each[:, :count], self)


jax.tree_util.register_dataclass(Regions)


def candidates(
    batch: Mapping[str, jax.Array], proposals: Proposals, thresholds: Thresholds, *, with_objects: bool = True
) -> tuple[jax.Array, jax.Array]:
    """Returns the boxes from which RoIs are sampled, `[B, N + P, 4]`, and the object of each, `[B, N + P]`.

    The boxes of the N objects come first, each matched to its own object. The P proposals follow, see `match`.

    Args:
      batch: `boxes` and `labels` of the objects.
      proposals: proposals.
      thresholds: IoU thresholds of a match.
      with_objects: whether the boxes of the objects can be sampled. If False, they are `IGNORED`.
    """
    boxes, labels = batch["boxes"], batch["labels"]
    given = *jax.lax.stop_gradient((proposals.boxes, proposals.used)), boxes, labels
    matched = map_examples(lambda *each: match(*each, thresholds))(*given)
    slots = jnp.where(existing(boxes, labels) & with_objects, jnp.arange(labels.shape[1], dtype=jnp.int32), IGNORED)
    return jnp.concatenate([boxes, proposals.boxes], axis=1), jnp.concatenate([slots, matched], axis=1)


def regions_of(boxes: jax.Array, samples: Samples, batch: Mapping[str, jax.Array], num_classes: int) -> Regions:
    """Returns the sampled RoIs with their objects.

    Args:
      boxes: boxes `[B, P, 4]` from which RoIs are sampled, see `candidates`.
      samples: samples of these boxes.
      batch: `boxes` and `labels` of the objects.
      num_classes: number of classes K.
    """
    places = jnp.take_along_axis(boxes, samples.boxes[..., None], axis=1)
    places = jnp.where(samples.used[..., None], places, 0)
    slots, positive = jnp.maximum(samples.objects, 0), samples.positive
    labels = jnp.where(positive, jnp.take_along_axis(batch["labels"], slots, axis=1), num_classes)
    targets = jnp.take_along_axis(batch["boxes"], slots[..., None], axis=1)
    return Regions(places, labels, samples.objects, jnp.where(positive[..., None], targets, places), samples.used)


def class_loss(logits: jax.Array, regions: Regions, counts: jax.Array) -> jax.Array:
    """Returns the cross-entropy of logits `[B, R, K + 1]`, summed over the existing RoIs and divided by `counts`."""
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, regions.labels)
    return jnp.where(regions.used, losses, 0).sum() / counts


def delta_loss(
    deltas: jax.Array, regions: Regions, stds: Sequence[float], counts: jax.Array, smooth: float = 0.0
) -> jax.Array:
    """Returns the smooth L1 loss of deltas, summed over the RoIs with an object and divided by `counts`.

    Args:
      deltas: deltas of each RoI for each class, `[B, R, K, 4]`.
      regions: the RoIs.
      stds: standard deviations of the deltas, see `encode`.
      counts: number of all RoIs, also those without an object.
      smooth: see `delta_losses`.
    """
    found, positive = of_class(deltas, regions.labels), regions.positive
    unit = jnp.array([0.0, 0, 1, 1])  # any box with an area, so that all targets are finite
    places = jnp.where(positive[..., None], regions.boxes, unit)
    targets = encode(places, jnp.where(positive[..., None], regions.targets, unit), stds)
    losses = delta_losses(found - jax.lax.stop_gradient(targets), smooth)
    return jnp.where(positive, losses, 0).sum() / counts


def mask_loss(logits: jax.Array, regions: Regions, batch: Mapping[str, Any], counts: jax.Array) -> jax.Array:
    """Returns the binary cross-entropy of masks, averaged over cells, summed over RoIs and divided by `counts`.

    Args:
      logits: logits of each class in the cells of each RoI, `[B, R, h, w, K]`.
      regions: the RoIs. Only RoIs with an object have a loss.
      batch: `masks`, `frames` and `size` of the images.
      counts: number of RoIs with an object.
    """
    positive = regions.positive
    slots = jnp.maximum(regions.objects, 0)
    given = batch["masks"], batch["frames"], slots, regions.boxes, batch["size"]
    targets = map_examples(lambda *each: mask_targets(*each, side=2 * MASK_SIDE))(*jax.lax.stop_gradient(given))
    labels = jnp.minimum(regions.labels, logits.shape[-1] - 1)
    found = jnp.take_along_axis(logits, labels[:, :, None, None, None], axis=-1)[..., 0]
    losses = optax.sigmoid_binary_cross_entropy(found, targets).mean(axis=(2, 3))
    return jnp.where(positive, losses, 0).sum() / counts


def of_class(values: jax.Array, labels: jax.Array) -> jax.Array:
    """Selects the values `[B, R, 4]` of each RoI's class from values `[B, R, K, 4]` of all classes.

    Background gets the values of the last class.
    """
    labels = jnp.minimum(labels, values.shape[2] - 1)
    return jnp.take_along_axis(values, labels[..., None, None], axis=2)[:, :, 0]
