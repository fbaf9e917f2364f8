"""Targets of mask heads, computed from crops of the masks of objects instead of from whole bitmaps."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from focalnet_jax.ops.roi_align import axis_weights
from focalnet_jax.tasks.detection.options import PAD

_CHUNK = 32  # RoIs computed at once; the crops and weights of all RoIs would need much memory


def mask_targets(
    masks: jax.Array, frames: jax.Array, objects: jax.Array, rois: jax.Array, size: jax.Array, side: int = 28
) -> jax.Array:
    """Returns 1 for each cell of an RoI that its object covers by at least half, else 0, `[R, side, side]` float32.

    The coverage of a cell is RoIAlign's average of the mask in the padded image. For an object that fits into its crop,
    the targets equal mmdetection's. For a larger object, they are as accurate as the reduced mask in the crop.

    Args:
      masks: crops of the masks of N objects, `[N, M, M / 8]` uint8, see `mask_crops.packed_crop`.
      frames: rectangle of each crop, x1, y1, x2 and y2 in pixels, `[N, 4]`, whole numbers.
      objects: slot of the object of each RoI, `[R]`.
      rois: boxes of the RoIs in pixels, `[R, 4]`.
      size: height and width of the image without padding, `[2]`.
      side: number of cells along each axis.
    """
    number, padded = len(objects), -(-size // PAD) * PAD
    chunk = min(_CHUNK, number)
    padding = -number % chunk

    def chunks(x: jax.Array) -> jax.Array:
        return jnp.pad(x, ((0, padding), *[(0, 0)] * (x.ndim - 1))).reshape(-1, chunk, *x.shape[1:])

    def compute(given: tuple[jax.Array, jax.Array]) -> jax.Array:
        return jax.vmap(lambda slot, roi: _target(masks[slot], frames[slot], roi, padded, side))(*given)

    return jax.lax.map(compute, (chunks(objects), chunks(rois))).reshape(-1, side, side)[:number]


def _target(packed: jax.Array, frame: jax.Array, roi: jax.Array, padded: jax.Array, side: int) -> jax.Array:
    """Returns the target of one RoI, `[side, side]`."""
    mask = jnp.unpackbits(packed, axis=-1).astype(jnp.float32)  # [M, M]
    rows = _weights(frame[1], frame[3], roi[1], roi[3], padded[0], side, mask.shape[0])
    columns = _weights(frame[0], frame[2], roi[0], roi[2], padded[1], side, mask.shape[1])
    highest = jax.lax.Precision.HIGHEST
    coverage = jnp.einsum("ph,hw,qw->pq", rows, mask, columns, precision=highest)
    return (coverage >= 0.5).astype(jnp.float32)


def _weights(
    first: jax.Array, last: jax.Array, begin: jax.Array, end: jax.Array, length: jax.Array, side: int, cells: int
) -> jax.Array:
    """Returns the weights of the cells of a crop in the bins of an RoI along one axis, `[side, cells]`.

    Args:
      first: first pixel of the crop.
      last: pixel after the last one of the crop.
      begin: where the RoI begins, in pixels.
      end: where the RoI ends, in pixels.
      length: number of pixels of the padded image.
      side: number of bins.
      cells: number of cells of the array; the crop uses the first ones.
    """
    extent = jnp.maximum(last - first, 1)
    used = jnp.minimum(extent, cells)
    factor = used / extent  # cells per pixel
    # Coordinates are multiplied by `factor`, so that a cell has the size 1. Half a cell is subtracted, because integers
    # are the centres of cells. Samples outside of the crop but inside of the image are outside of the object.
    start, stop = begin * factor - 0.5, end * factor - 0.5
    weights = axis_weights(start, stop, side, length * factor, 0, first * factor, cells)
    return jnp.where(jnp.arange(cells) < used, weights, 0)
