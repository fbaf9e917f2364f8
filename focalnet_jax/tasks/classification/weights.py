"""Weights of classes in the loss."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import FrozenConfigDict

from focalnet_jax.data.balance import Balance, balanced_weights, labels_of
from focalnet_jax.data.source import Source
from focalnet_jax.errors import UserError


def class_weights(config: FrozenConfigDict, source: Source | None) -> tuple[float, ...] | None:
    """Returns the weight of each of the K outputs in the loss, or None if `class_weights` is not set.

    "balanced" weights are proportional to the inverse of the frequencies at which classes are drawn, after
    `data.class_balance`. Without a source, "balanced" weights are 1.

    Raises:
      UserError: the numbers of weights and outputs differ.
    """
    outputs, given = config.model.num_classes, config.class_weights
    if given is None:
        return None
    if given == "balanced":
        if source is None:
            return (1.0,) * outputs
        drawn = Balance(labels_of(source), config.data.class_balance).places
        return tuple(balanced_weights(np.pad(drawn, (0, outputs - len(drawn)))).tolist())
    if len(given) != outputs:
        raise UserError(f"class_weights has {len(given)} numbers; expected one for each of the {outputs} classes")
    return tuple(map(float, given))


def weigh(targets: jax.Array, weights: jax.Array, smoothing: float) -> jax.Array:
    """Returns targets `[B, K]` whose mean cross-entropy equals the class-weighted mean of the original loss.

    The weighted mean is the sum over examples and classes of weight x target x -log p, divided by the sum of the
    examples' weights, like `torch.nn.CrossEntropyLoss(weight, label_smoothing)` for class indices. The weight of a
    mixed example is the mean of the weights of its classes, weighted by the target before smoothing. Sums are over the
    global batch, so the numbers of devices and micro-batches do not change the result.
    """
    total = jnp.sum(targets @ weights - smoothing * weights.mean()) / (1 - smoothing)
    return targets * weights * jnp.where(total > 0, len(targets) / jnp.where(total > 0, total, 1), 0)


def unweigh(targets: np.ndarray, weights: np.ndarray, smoothing: float) -> np.ndarray:
    """Inverts `weigh`: returns the original targets `[B, K]`, with 0 for classes whose weight is 0.

    The classes of at least one example, apart from smoothing, must all have positive weights.
    """
    weighted = weights > 0
    shares = np.where(weighted, targets / np.where(weighted, weights, 1), 0)
    largest = shares.sum(axis=-1).max() / (1 - smoothing * np.mean(~weighted))  # targets sum to 1
    return shares / largest if largest > 0 else shares
