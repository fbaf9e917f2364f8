"""Cross-entropy of pixels with weights of classes and selection of hard pixels, like mmsegmentation's."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax

from focalnet_jax.data.masks import IGNORED
from focalnet_jax.ops.resize import bilinear


def pixel_losses(logits: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns the cross-entropy of every pixel, `[B, H, W]` float32, which is 0 where the mask is `IGNORED`.

    Args:
      logits: `[B, h, w, K]`, resized bilinearly to the size of the mask.
      mask: class numbers `[B, H, W]`.
    """
    return score_losses(bilinear(logits, mask.shape[1:]), mask)


def score_losses(scores: jax.Array, mask: jax.Array, *, probabilities: bool = False) -> jax.Array:
    """Returns the cross-entropy of every pixel, `[B, H, W]` float32, which is 0 where the mask is `IGNORED`.

    Args:
      scores: logits `[B, H, W, K]`, or probabilities.
      mask: class numbers `[B, H, W]`.
      probabilities: whether the scores are probabilities.
    """
    known = mask != IGNORED
    labels = jnp.where(known, mask, 0).astype(jnp.int32)
    if probabilities:
        smallest = jnp.finfo(scores.dtype).tiny
        chosen = jnp.take_along_axis(scores, labels[..., None], axis=-1)[..., 0]
        losses = -jnp.log(jnp.maximum(chosen, smallest))
    else:
        losses = optax.softmax_cross_entropy_with_integer_labels(scores, labels)
    return jnp.where(known, losses, 0.0)


@dataclass(frozen=True)
class PixelLoss:
    """Cross-entropy of the pixels of a batch, with weights of classes and selection of hard pixels.

    Attributes:
      average: divisor of the loss: "all" for the number of pixels, "valid" for the number of pixels that are not
        ignored, "weighted" for the sum of their class weights.
      class_weights: factor of the loss of each class; empty if all are 1.
      kept: least number of hard pixels per image, on average over the batch; 0 if all pixels count.
      threshold: pixels whose true class has a lower probability are hard. None: exactly `kept` pixels per image, on
        average, are hard.
    """

    average: str = "all"
    class_weights: tuple[float, ...] = ()
    kept: int = 0
    threshold: float | None = None

    def divisor(self, mask: jax.Array) -> jax.Array:
        """Returns the number by which the sum of the losses of a batch is divided, for class numbers `[B, H, W]`.

        As in mmsegmentation, it does not depend on which pixels are hard.
        """
        if self.average == "all":
            return jnp.asarray(mask.size, jnp.float32)
        weights = self.weights(mask) if self.average == "weighted" else mask != IGNORED
        # The sum is 0 if all pixels are ignored.
        return jnp.maximum(weights.sum(dtype=jnp.float32), jnp.finfo(jnp.float32).eps)

    def sums(self, logits: jax.Array, mask: jax.Array) -> jax.Array:
        """Returns the sum of the losses of each image, `[B]` float32. The arguments are those of `pixel_losses`."""
        losses, weights = pixel_losses(logits, mask), self.weights(mask)
        if self.kept:
            weights *= self._hard(jax.lax.stop_gradient(losses), weights, mask != IGNORED)
        return (losses * weights).sum((1, 2))

    def weights(self, mask: jax.Array) -> jax.Array:
        """Returns the weight of the class of each pixel, `[B, H, W]` float32, which is 0 for ignored pixels."""
        known = mask != IGNORED
        if not self.class_weights:
            return known.astype(jnp.float32)
        weights = jnp.asarray(np.array(self.class_weights, np.float32))
        return jnp.where(known, weights[jnp.where(known, mask, 0)], 0.0)

    def _hard(self, losses: jax.Array, weights: jax.Array, known: jax.Array) -> jax.Array:
        """Returns 1 for hard pixels and 0 for others, like `OHEMPixelSampler` (OHEM, arXiv 1604.03540).

        Let n be `kept` times the number of images. With a threshold, a pixel is hard if its probability is below the
        threshold or among the n smallest of the batch. Without a threshold, the n pixels of the batch with the largest
        weighted losses are hard. One image may therefore have more hard pixels than another.
        """
        kept = self.kept * len(losses)
        if self.threshold is None:
            order = jnp.where(known, losses * weights, -1.0).ravel()
            chosen = jax.lax.top_k(order, min(kept, order.size))[1]
            return jnp.zeros(order.size).at[chosen].set(1.0).reshape(losses.shape)
        probabilities = jnp.where(known, jnp.exp(-losses), jnp.inf)
        limit = jnp.sort(probabilities.ravel())[jnp.minimum(kept, known.sum() - 1)]
        return (probabilities < jnp.maximum(limit, self.threshold)) & known


def hits(logits: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns the pixel accuracy of each image, `[B]`: the share of correct pixels among those that are not ignored.

    The mask is read at the resolution of the logits `[B, h, w, K]`, which is cheaper than resizing the logits.
    """
    height, width = logits.shape[1:3]
    rows, columns = (jnp.arange(n) * full // n for n, full in zip((height, width), mask.shape[1:], strict=True))
    labels = mask[:, rows][:, :, columns]
    known = labels != IGNORED
    right = (jnp.argmax(logits, axis=-1) == labels) & known
    return right.sum((1, 2)) / jnp.maximum(known.sum((1, 2)), 1)
