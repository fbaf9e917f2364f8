"""Puts the masks of objects into a fixed number of slots of a fixed size. Nothing here imports JAX."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from focalnet_jax.data.cutouts import cutout_of
from focalnet_jax.data.decode import UnreadableImageError
from focalnet_jax.data.mask_crops import packed_crop
from focalnet_jax.data.segments import Segment, Size, UnreadableSegmentError


def mask_slots(
    segments: Sequence[Segment], size: Size, rows: np.ndarray, columns: np.ndarray, slots: int, side: int
) -> dict[str, np.ndarray]:
    """Returns the masks of the objects of an image after it is resized, cropped or mirrored.

    The pixels equal those of whole bitmaps that are resized, cropped or mirrored, but no whole bitmaps are allocated.

    Args:
      segments: polygons or run-length encodings of at most N objects in the stored image.
      size: height and width of the stored image.
      rows: row of the stored image for each row of the result, see `Cutout.gathered`.
      columns: column of the stored image for each column of the result.
      slots: number N of slots.
      side: number M of cells along each axis of a mask, see `packed_crop`.

    Returns:
      `masks` `[N, M, M / 8]` uint8: the cells of each mask as bits, the first column in the highest bit; and `frames`
      `[N, 4]` float32: x1, y1, x2, y2 of the rectangle that the cells cover, in pixels of the result. Both are 0 in
      unused slots, and for objects without pixels.

    Raises:
      UnreadableImageError: a segment is damaged.
    """
    masks, frames = np.zeros((slots, side, side // 8), np.uint8), np.zeros((slots, 4), np.float32)
    for slot, segment in enumerate(segments):
        try:
            found = cutout_of(segment, size).gathered(rows, columns)
        except UnreadableSegmentError as error:
            raise UnreadableImageError(f"the mask of an object is damaged: {error}") from error
        masks[slot], frames[slot] = packed_crop(found.pixels, found.left, found.top, side)
    return {"masks": masks, "frames": frames}
