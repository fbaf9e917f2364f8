"""Results of exported models whose outputs are logits, for the predictors of several tasks."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

EXPORTS = ("logits", "classes")


def random_images(rng: np.random.Generator, count: int, size: tuple[int, int]) -> np.ndarray:
    """Returns random normalized images `[count, *size, 3]` float32."""
    return rng.standard_normal((count, *size, 3), np.float32)


def export_result(logits: jax.Array, result: str) -> jax.Array:
    """Returns `logits` `[..., K]`, or the class with the largest logit `[...]` int32 if `result` is "classes"."""
    return jnp.argmax(logits, axis=-1).astype(jnp.int32) if result == "classes" else logits


def logits_difference(given: np.ndarray, own: np.ndarray, result: str) -> float:
    """Returns the largest difference between the result of an exported model and the logits of the model.

    Differences are relative to the largest absolute logit. For classes, the difference is the largest logit minus the
    logit of the class in the result.

    Args:
      given: result of the export, logits `[..., K]` or classes `[...]`.
      own: logits of the model, `[..., K]`.
      result: kind of `given`, one of `EXPORTS`.
    """
    if result == "classes":
        apart = own.max(axis=-1) - np.take_along_axis(own, given[..., None], axis=-1)[..., 0]
    else:
        apart = np.abs(given - own)
    return float(apart.max() / max(np.abs(own).max(), np.finfo(np.float32).tiny))
