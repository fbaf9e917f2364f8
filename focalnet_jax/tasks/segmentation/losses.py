"""Cross-entropy of pixels, averaged like mmsegmentation's."""

from __future__ import annotations

import jax
import jax.numpy as jnp
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


def hits(logits: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns the share of the pixels that are not ignored whose class has the largest logit, for each image `[B]`.

    The mask is read at the resolution of the logits `[B, h, w, K]`, which is cheaper than resizing the logits.
    """
    height, width = logits.shape[1:3]
    rows, columns = (jnp.arange(n) * full // n for n, full in zip((height, width), mask.shape[1:], strict=True))
    labels = mask[:, rows][:, :, columns]
    known = labels != IGNORED
    right = (jnp.argmax(logits, axis=-1) == labels) & known
    return right.sum((1, 2)) / jnp.maximum(known.sum((1, 2)), 1)
