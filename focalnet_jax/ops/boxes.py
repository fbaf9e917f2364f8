"""Boxes: areas, overlaps, encoding relative to anchors, and grids of anchors, computed like mmdetection's.

A box consists of x1, y1, x2 and y2 in pixels; its width is x2 - x1.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np


def areas(boxes: jax.Array) -> jax.Array:
    """Returns the areas `[...]` of boxes `[..., 4]`, 0 for boxes whose x2 < x1 or y2 < y1."""
    sides = _not_negative(boxes[..., 2:] - boxes[..., :2])
    return sides[..., 0] * sides[..., 1]


def iou(a: jax.Array, b: jax.Array, eps: float = 1e-6) -> jax.Array:
    """Returns the intersection over union `[...]` of boxes `[..., 4]` with boxes `[..., 4]`, elementwise.

    Args:
      a: boxes.
      b: boxes.
      eps: smallest union that the intersection is divided by.
    """
    return _overlaps(a, b, eps)[0]


def pairwise_iou(a: jax.Array, b: jax.Array, eps: float = 1e-6) -> jax.Array:
    """Returns the intersection over union `[..., n, m]` of boxes `[..., n, 4]` with boxes `[..., m, 4]`.

    Args:
      a: boxes.
      b: boxes.
      eps: smallest union that the intersection is divided by.
    """
    return iou(a[..., :, None, :], b[..., None, :, :], eps)


def giou(a: jax.Array, b: jax.Array, eps: float = 1e-6) -> jax.Array:
    """Returns the generalized IoU (arXiv 1902.09630) `[...]` of boxes `[..., 4]` with boxes `[..., 4]`, elementwise.

    Gradients are finite for all finite boxes.

    Args:
      a: boxes.
      b: boxes.
      eps: smallest area that areas are divided by.
    """
    ratio, union = _overlaps(a, b, eps)
    around = jnp.concatenate([jnp.minimum(a[..., :2], b[..., :2]), jnp.maximum(a[..., 2:], b[..., 2:])], axis=-1)
    enclosing = jnp.maximum(areas(around), eps)
    return ratio - (enclosing - union) / enclosing


def _overlaps(a: jax.Array, b: jax.Array, eps: float) -> tuple[jax.Array, jax.Array]:
    """Returns the intersection over union, and the union, of boxes elementwise."""
    sides = _not_negative(jnp.minimum(a[..., 2:], b[..., 2:]) - jnp.maximum(a[..., :2], b[..., :2]))
    both, first, second = (_rounded(x) for x in (sides[..., 0] * sides[..., 1], _signed_areas(a), _signed_areas(b)))
    union = jnp.maximum(first + second - both, eps)
    return both / union, union


def _signed_areas(boxes: jax.Array) -> jax.Array:
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def _rounded(products: jax.Array) -> jax.Array:
    """Returns the products unchanged, but keeps a compiler from fusing them with a following sum.

    A fused product is not rounded, so that overlaps that are equal in PyTorch, such as those of several anchors with
    one object, would differ.
    """
    return jnp.minimum(products, jnp.finfo(products.dtype).max)


def _not_negative(x: jax.Array) -> jax.Array:
    # At 0, PyTorch's clamp has the gradient 1; jnp.maximum has 1/2.
    return jnp.where(x < 0, 0, x)


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
      anchors: boxes.
      deltas: deltas, see `encode`.
      stds: see `encode`.
      size: height and width of the image that the boxes are clipped to, `[..., 2]`, broadcast over boxes; None for no
        clipping.
      ratio_clip: the sides of boxes and anchors differ at most by a factor of 1 / ratio_clip.
    """
    centres, sides = _centred(anchors)
    deltas = deltas * jnp.asarray(stds, deltas.dtype)
    limit = abs(np.log(ratio_clip))
    lengths = sides * jnp.exp(jnp.clip(deltas[..., 2:], -limit, limit))
    centres = centres + sides * deltas[..., :2]
    boxes = jnp.concatenate([centres - lengths * 0.5, centres + lengths * 0.5], axis=-1)
    if size is None:
        return boxes
    height, width = size[..., :1], size[..., 1:]
    return jnp.clip(boxes, 0, jnp.concatenate([width, height, width, height], axis=-1).astype(boxes.dtype))


def _centred(boxes: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the centres (x, y) and the sides (width, height) of boxes, `[..., 2]` each."""
    return (boxes[..., :2] + boxes[..., 2:]) * 0.5, boxes[..., 2:] - boxes[..., :2]


def anchor_sides(size: float, scales: Sequence[float], ratios: Sequence[float]) -> np.ndarray:
    """Returns width and height of anchors, `[ratios * scales, 2]` float32: all scales of a ratio, then the next ratio.

    Args:
      size: side of the square anchor of scale 1, in pixels; mmdetection's is the stride of the level.
      scales: factors of the sides.
      ratios: heights divided by widths; the area is independent of the ratio.
    """
    tall = np.sqrt(np.float32(ratios))[:, None]
    factors = np.stack(np.broadcast_arrays(np.float32(size) * (1 / tall), np.float32(size) * tall), axis=-1)
    return (factors * np.float32(scales)[:, None]).reshape(-1, 2)


def grid_anchors(map_size: tuple[int, int], stride: int, widths_heights: Sequence[tuple[float, float]]) -> np.ndarray:
    """Returns A anchors per position of a map, centred on the position times the stride, `[h * w * A, 4]` float32.

    The order is row, column, anchor. Anchors are neither rounded nor clipped.

    Args:
      map_size: height h and width w of the map.
      stride: pixels per position.
      widths_heights: width and height of each of the A anchors, see `anchor_sides`.
    """
    height, width = map_size
    half = np.float32(widths_heights) * np.float32(0.5)
    rows, columns = np.mgrid[:height, :width] * stride
    centres = np.stack([columns, rows, columns, rows], axis=-1).astype(np.float32)
    return (centres[:, :, None] + np.concatenate([-half, half], axis=-1)).reshape(-1, 4)


def inside_padded(map_size: tuple[int, int], stride: int, padded: jax.Array) -> jax.Array:
    """Returns which positions of a map begin inside the padded image, `[h * w]` bool.

    Args:
      map_size: height h and width w of the map.
      stride: pixels per position.
      padded: height and width of the padded image, `[2]`.
    """
    rows, columns = (jnp.arange(count) * stride < side for count, side in zip(map_size, padded, strict=True))
    return (rows[:, None] & columns).ravel()
