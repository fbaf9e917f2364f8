"""Class activation maps (CAM): the contribution of each position in an image to the logit of a class."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from focalnet_jax.errors import UserError
from focalnet_jax.model import FocalNet
from focalnet_jax.model.jitted import jitted


def class_activation(model: FocalNet, images: jax.Array, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns class activation maps (arXiv 1512.04150, equation 2) and all logits.

    A map has the contribution of each position to the logit of a class. The maps are exact, because FocalNet classifies
    the mean over positions: a logit is the mean of its map plus the classifier's bias.

    Args:
      model: a model with a classifier.
      images: `[B, H, W, 3]`, normalized.
      classes: `[B, K']`, indices of the classes that get a map, for each image.

    Returns:
      Maps `[B, K', h, w]` and logits `[B, K]`.

    Raises:
      UserError: the model has no classifier, `classes` has the wrong shape, or an index is out of range.
    """
    if model.head is None:
        raise UserError("the model has no classifier for class activations: load a model with num_classes > 0")
    known, classes = model.config.num_classes, np.asarray(classes)
    if classes.ndim != 2 or len(classes) != len(images):
        raise UserError(f"classes of shape {classes.shape} for {len(images)} images; expected one row per image")
    if classes.size and not 0 <= classes.min() <= classes.max() < known:
        raise UserError(f"class indices are {classes.min()} to {classes.max()}; expected 0 to {known - 1}")
    maps, logits = _class_activation(model, jnp.asarray(images), jnp.asarray(classes))
    return np.asarray(maps), np.asarray(logits)


@jitted
def _class_activation(model: FocalNet, images: jax.Array, classes: jax.Array) -> tuple[jax.Array, jax.Array]:
    last = model.features(images)[-1]
    weights = model.head.kernel[...].T[classes]  # [B, K', C]
    features = model.norm(last).astype(jnp.float32)
    return jnp.einsum("bhwc,bkc->bkhw", features, weights, precision="highest"), model.classify(last)
