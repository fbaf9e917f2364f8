"""Boxes: areas, overlaps, encoding relative to anchors, and grids of anchors, computed like mmdetection's.

A box consists of x1, y1, x2 and y2 in pixels; its width is x2 - x1.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

_EPSILON = 1e-6  # smallest area that areas are divided by


def areas(boxes: jax.Array) -> jax.Array:
    """Returns the areas `[...]` of boxes `[..., 4]`, 0 for boxes without width or height."""
    sides = jnp.maximum(boxes[..., 2:] - boxes[..., :2], 0)
    return sides[..., 0] * sides[..., 1]


def iou(a: jax.Array, b: jax.Array) -> jax.Array:
    """Returns the intersection over union `[...]` of boxes `[..., 4]` with boxes `[..., 4]`, elementwise."""
    return _overlaps(a, b)[0]


def pairwise_iou(a: jax.Array, b: jax.Array) -> jax.Array:
    """Returns the intersection over union `[..., n, m]` of boxes `[..., n, 4]` with boxes `[..., m, 4]`."""
    return iou(a[..., :, None, :], b[..., None, :, :])


def giou(a: jax.Array, b: jax.Array) -> jax.Array:
    """Returns the generalized IoU (arXiv 1902.09630) `[...]` of boxes `[..., 4]` with boxes `[..., 4]`, elementwise."""
    ratio, union = _overlaps(a, b)
    around = jnp.concatenate([jnp.minimum(a[..., :2], b[..., :2]), jnp.maximum(a[..., 2:], b[..., 2:])], axis=-1)
    enclosing = jnp.maximum(areas(around), _EPSILON)
    return ratio - (enclosing - union) / enclosing


def _overlaps(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the intersection over union, and the union, of boxes elementwise."""
    sides = jnp.maximum(jnp.minimum(a[..., 2:], b[..., 2:]) - jnp.maximum(a[..., :2], b[..., :2]), 0)
    both = sides[..., 0] * sides[..., 1]
    union = jnp.maximum(_signed_areas(a) + _signed_areas(b) - both, _EPSILON)
    return both / union, union


def _signed_areas(boxes: jax.Array) -> jax.Array:
    sides = boxes[..., 2:] - boxes[..., :2]
    return sides[..., 0] * sides[..., 1]


def encode(anchors: jax.Array, boxes: jax.Array, stds: Sequence[float]) -> jax.Array:
    """Returns the deltas `[..., 4]` from anchors `[..., 4]` to boxes `[..., 4]` (arXiv 1311.2524, appendix C).

    Args:
      anchors: boxes with positive sides.
      boxes: boxes with positive sides.
      stds: the deltas of centre x, centre y, width and height are divided by these numbers.
    """
    (centres, sides), (aims, lengths) = _centred(anchors), _centred(boxes)
    deltas = jnp.concatenate([(aims - centres) / sides, jnp.log(lengths / sides)], axis=-1)
    return deltas / jnp.asarray(stds, deltas.dtype)


def decode(
    anchors: jax.Array,
    deltas: jax.Array,
    stds: Sequence[float],
    size: jax.Array | None = None,
    ratio_clip: float = 16 / 1000,
) -> jax.Array:
    """Returns the boxes `[..., 4]` that the deltas `[..., 4]` encode relative to anchors `[..., 4]`.

    Args:
      anchors: boxes with positive sides.
      deltas: deltas, see `encode`.
      stds: see `encode`.
      size: height and width of the image that the boxes are clipped to, `[..., 2]`, which is broadcast over boxes; or
        None.
      ratio_clip: the sides of boxes and anchors differ at most by a factor of 1 / ratio_clip.
    """
    centres, sides = _centred(anchors)
    deltas = deltas * jnp.asarray(stds, deltas.dtype)
    limit = abs(np.log(ratio_clip))
    half = sides * jnp.exp(jnp.clip(deltas[..., 2:], -limit, limit)) / 2
    centres = centres + sides * deltas[..., :2]
    boxes = jnp.concatenate([centres - half, centres + half], axis=-1)
    if size is None:
        return boxes
    limits = jnp.concatenate([size[..., ::-1], size[..., ::-1]], axis=-1).astype(boxes.dtype)
    return jnp.clip(boxes, 0, limits)


def _centred(boxes: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the centres (x, y) and the sides (width, height) of boxes, `[..., 2]` each."""
    return (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]


def grid_anchors(map_size: tuple[int, int], stride: int, sides: Sequence[tuple[float, float]]) -> np.ndarray:
    """Returns A anchors per position of a map, centred on the position times the stride, `[h * w * A, 4]` float32.

    Args:
      map_size: height h and width w of the map.
      stride: pixels per position.
      sides: width and height of each of the A anchors.
    """
    height, width = map_size
    half = np.array([(-w, -h, w, h) for w, h in sides], np.float32) / 2
    rows, columns = np.mgrid[:height, :width] * stride
    centres = np.stack([columns, rows, columns, rows], axis=-1).astype(np.float32)
    return (centres[:, :, None] + half).reshape(-1, 4)


def inside_padded(map_size: tuple[int, int], stride: int, padded: jax.Array) -> jax.Array:
    """Returns which positions of a map begin inside an image, `[h * w]` bool.

    Args:
      map_size: height h and width w of the map.
      stride: pixels per position.
      padded: height and width of the image with the padding that counts as inside, `[2]`.
    """
    rows, columns = (jnp.arange(count) * stride < side for count, side in zip(map_size, padded, strict=True))
    return (rows[:, None] & columns).ravel()
