"""Targets, losses and proposals of a region proposal network, computed like mmdetection's RPNHead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from focalnet_jax.distributed.activations import map_examples
from focalnet_jax.ops.boxes import areas, decode, encode
from focalnet_jax.ops.nms import sorted_nms
from focalnet_jax.tasks.detection.anchors import Anchors
from focalnet_jax.tasks.detection.matching import Samples, Thresholds, draw, match

RATIOS = (0.5, 1.0, 2.0)
_STDS = (1.0, 1.0, 1.0, 1.0)  # of the deltas
_THRESHOLDS = Thresholds(positive=0.7, negative=0.3, best=0.3)
_SAMPLES, _POSITIVES = 256, 128  # sampled anchors per image; largest number of positive ones
_IOU = 0.7  # largest overlap of two proposals of a level


class Proposals(NamedTuple):
    """A fixed number P of proposals of an image, or of each image of a batch.

    Attributes:
      boxes: boxes `[..., P, 4]` in pixels of the resized image.
      scores: probabilities of an object `[..., P]`, the highest first. The refined boxes of a cascade have the score 1
        if they exist, else 0, in any order.
      used: whether the proposal exists, `[..., P]` bool.
    """

    boxes: jax.Array
    scores: jax.Array
    used: jax.Array


@dataclass(frozen=True)
class RPN:
    """Training and inference of a region proposal network.

    Attributes:
      smooth: parameter beta of the smooth L1 loss of the deltas; 0 for the L1 loss.
      crossing: whether anchors that cross the border of the image are used in training.
    """

    smooth: float = 0.0
    crossing: bool = True

    def targets(self, batch: Mapping[str, jax.Array], anchors: Anchors, key: jax.Array) -> dict[str, Any]:
        """Returns `anchors`, the `Samples` of each image, and `anchor_weight` `[B]`.

        `losses` multiplies the sum over the samples of each image by `anchor_weight`. The mean over images is then the
        sum over all samples of the global batch, divided by their number, see `weights_of`.

        Args:
          batch: `size`, `boxes` and `labels` of a global batch.
          anchors: the anchors.
          key: PRNG key.
        """
        places, count = jnp.asarray(anchors.boxes), len(batch["size"])

        def one(boxes: jax.Array, labels: jax.Array, size: jax.Array, key: jax.Array) -> Samples:
            used = anchors.inside(size)
            if not self.crossing:
                used &= (places[:, :2] >= 0).all(axis=1) & (places[:, 2:] < size[::-1]).all(axis=1)
            return draw(match(places, used, boxes, labels, _THRESHOLDS), key, _SAMPLES, _POSITIVES)

        samples = map_examples(one)(batch["boxes"], batch["labels"], batch["size"], jax.random.split(key, count))
        return {"anchors": samples, "anchor_weight": weights_of(samples)}

    def losses(
        self, logits: jax.Array, deltas: jax.Array, batch: Mapping[str, Any], anchors: Anchors
    ) -> tuple[jax.Array, jax.Array]:
        """Returns the classification loss and the box loss, each as a mean over images.

        Args:
          logits: logits of an object for each anchor, `[B, A]`.
          deltas: deltas of each anchor, `[B, A, 4]`.
          batch: `boxes`, `labels` and the result of `targets`.
          anchors: the anchors.
        """
        samples, positive = batch["anchors"], batch["anchors"].positive
        logits = jnp.take_along_axis(logits, samples.boxes, axis=1)
        deltas = jnp.take_along_axis(deltas, samples.boxes[..., None], axis=1)
        classes = optax.sigmoid_binary_cross_entropy(logits, positive.astype(jnp.float32))
        objects = jnp.take_along_axis(batch["boxes"], jnp.maximum(samples.objects, 0)[..., None], axis=1)
        places = jnp.asarray(anchors.boxes)[samples.boxes]
        objects = jnp.where(positive[..., None], objects, places)  # negatives are encoded too, and must be finite
        boxes = delta_losses(deltas - encode(places, objects, _STDS), self.smooth)
        each = jnp.where(samples.used, classes, 0).sum(axis=1), jnp.where(positive, boxes, 0).sum(axis=1)
        return tuple(jnp.mean(loss * batch["anchor_weight"]) for loss in each)

    def proposals(
        self,
        logits: Sequence[jax.Array],
        deltas: Sequence[jax.Array],
        sizes: jax.Array,
        anchors: Anchors,
        candidates: int,
        number: int,
        *,
        flat: bool = True,
    ) -> Proposals:
        """Returns the proposals of each image. Gradients do not pass through them.

        Args:
          logits: logits of each level, `[B, h, w, a]` for a anchors per position.
          deltas: deltas of each level, `[B, h, w, a, 4]`.
          sizes: heights and widths of the images without padding, `[B, 2]`.
          anchors: the anchors.
          candidates: largest number of boxes per level before non-maximum suppression.
          number: largest number of proposals.
          flat: whether boxes without area may be proposals, such as boxes outside of the image after they are clipped.
            mmdetection 2.11 keeps such boxes, later versions do not.
        """

        def one(logits: list[jax.Array], deltas: list[jax.Array], size: jax.Array) -> Proposals:
            return _proposals(logits, deltas, size, anchors, candidates, number, flat)

        return map_examples(one)(*jax.lax.stop_gradient((list(logits), list(deltas))), sizes)


def weights_of(samples: Samples) -> jax.Array:
    """Returns the weight of each image, `[B]`: B divided by the number of samples in the batch.

    As in mmdetection, an image without positive samples counts as if it had one, and likewise without negative samples.
    """
    positive = samples.positive.sum(axis=1)
    negative = samples.used.sum(axis=1) - positive
    total = (jnp.maximum(positive, 1) + jnp.maximum(negative, 1)).sum()
    return jnp.full(len(positive), len(positive) / total)


def delta_losses(differences: jax.Array, smooth: float) -> jax.Array:
    """Returns the smooth L1 loss of each box, `[...]`, summed over its four deltas.

    Args:
      differences: differences of deltas, `[..., 4]`.
      smooth: parameter beta: the loss of smaller differences is quadratic. 0 for the L1 loss.
    """
    absolute = jnp.abs(differences)
    if smooth:
        absolute = jnp.where(absolute < smooth, 0.5 * differences**2 / smooth, absolute - 0.5 * smooth)
    return absolute.sum(axis=-1)


def _proposals(
    logits: Sequence[jax.Array],
    deltas: Sequence[jax.Array],
    size: jax.Array,
    anchors: Anchors,
    candidates: int,
    number: int,
    flat: bool,
) -> Proposals:
    """Returns the proposals of an image, see `RPN.proposals`."""
    places, inside, first, levels = jnp.asarray(anchors.boxes), anchors.inside(size), 0, []
    for count, level, change in zip(anchors.counts, logits, deltas, strict=True):
        scores = jax.nn.sigmoid(level.reshape(count))
        scores = jnp.where(inside[first : first + count], scores, -1.0)
        best, kept = jax.lax.top_k(scores, min(candidates, count))
        boxes = decode(places[first : first + count][kept], change.reshape(count, 4)[kept], _STDS, size)
        used = (best >= 0) & jnp.isfinite(boxes).all(axis=-1) & (flat | (areas(boxes) > 0))
        boxes = jnp.where(used[:, None], boxes, 0)
        levels.append((boxes, best, used & sorted_nms(boxes, _IOU, used)))
        first += count
    boxes, scores, used = (jnp.concatenate(each) for each in zip(*levels, strict=True))
    best, kept = jax.lax.top_k(jnp.where(used, scores, -1.0), min(number, len(scores)))
    return Proposals(boxes[kept], jnp.where(used[kept], best, 0), used[kept])
