"""The exported program of a detector: its arguments, its result, and how results are compared."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from focalnet_jax.tasks.detection.canvases import Size
from focalnet_jax.tasks.detection.evaluated import padded_with_zeros
from focalnet_jax.tasks.detection.method import Method

EXPORTS = ("detections",)
_SCALES = (1, 4, 16, 32)  # side of the squares of each random pattern in pixels


def random_inputs(rng: np.random.Generator, count: int, canvas: Size) -> dict[str, np.ndarray]:
    """Returns random normalized `images` `[count, *canvas, 3]` float32, and their `sizes` `[count, 2]` int32.

    The images are sums of patterns of several scales, because a detector finds nothing in white noise.
    """
    images = np.zeros((count, *canvas, 3), np.float32)
    for side in _SCALES:
        coarse = rng.standard_normal((count, *(-(-each // side) for each in canvas), 3), np.float32)
        images += coarse.repeat(side, axis=1).repeat(side, axis=2)[:, : canvas[0], : canvas[1]]
    sizes = [[rng.integers(-(-side // 2), side + 1) for side in canvas] for _ in range(count - 1)]
    return {"images": images, "sizes": np.array([canvas, *sizes], np.int32)}


def export_detections(method: Method, model: nnx.Module, images: jax.Array, sizes: jax.Array) -> dict[str, jax.Array]:
    """Returns the detections of images, in pixels of the images, the highest score first.

    Args:
      method: detects objects.
      model: the detector.
      images: normalized images `[B, H, W, 3]` float32. Pixels outside of `sizes` are set to 0.
      sizes: heights and widths of the images without padding, `[B, 2]` int32.

    Returns:
      `boxes` `[B, D, 4]` float32; `scores` `[B, D]` float32; `labels` `[B, D]` int32, -1 in unused places; and, for a
      detector with masks, `masks` `[B, D, h, w]` float32: the probability that each cell of an h x w grid over the box
      belongs to the object.
    """
    scale = jnp.ones((images.shape[0], 4), jnp.float32)
    found = method.detect(model, {"image": padded_with_zeros(images, sizes), "size": sizes, "scale": scale})
    result = {"boxes": found.boxes, "scores": found.scores, "labels": found.labels}
    return result if found.masks is None else result | {"masks": found.masks}


def detections_difference(
    given: Mapping[str, np.ndarray], own: Mapping[str, np.ndarray], least: float, tolerance: float
) -> float:
    """Returns the largest difference between two results for one image, infinite if a detection is missing in one.

    Differences of scores and of mask probabilities are absolute; differences of coordinates are relative to the largest
    coordinate. Each detection is compared with the most similar detection of the same class in the other result.

    A detection may be missing if its score is at most `tolerance` above the threshold `least`, or above the lowest
    score of its result, if all places of this result are used: rounding decides whether such a detection is kept.

    Args:
      given: result of an export, see `export_detections`, without the axis of images.
      own: result of the model.
      least: smallest score of a detection.
      tolerance: difference of scores by rounding.
    """
    side = max(1.0, *(float(np.abs(each["boxes"]).max(initial=0)) for each in (given, own)))
    largest = 0.0
    for ours, theirs in ((given, own), (own, given)):
        used = ours["labels"] >= 0
        limit = max(least, ours["scores"].min() if used.all() else 0.0) + tolerance
        for row in np.flatnonzero(used):
            apart = np.maximum(
                np.abs(theirs["boxes"] - ours["boxes"][row]).max(axis=-1) / side,
                np.abs(theirs["scores"] - ours["scores"][row]),
            )
            if "masks" in ours:
                apart = np.maximum(apart, np.abs(theirs["masks"] - ours["masks"][row]).max(axis=(1, 2)))
            least_apart = float(np.min(apart, initial=np.inf, where=theirs["labels"] == ours["labels"][row]))
            if least_apart <= tolerance or ours["scores"][row] > limit:
                largest = max(largest, least_apart)
    return largest
