"""Makes the content of a COCO file for sources whose annotations have other formats."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from focalnet_jax.data.instances import Instances
from focalnet_jax.data.segments import encode_bitmap


def as_coco(
    examples: Sequence[Instances],
    names: Sequence[str],
    sizes: np.ndarray,
    image_ids: np.ndarray,
    classes: Sequence[str],
) -> dict[str, Any]:
    """Returns the content of a COCO file: images, annotations and categories.

    Args:
      examples: the objects of each image.
      names: name of each image.
      sizes: height and width of each image, `[n, 2]`.
      image_ids: id of each image, `[n]`.
      classes: names of the classes; their ids are 1, 2, ...
    """
    images = [
        {"id": number, "file_name": name, "height": height, "width": width}
        for number, name, (height, width) in zip(image_ids.tolist(), names, sizes.tolist(), strict=True)
    ]
    return {
        "images": images,
        "annotations": [
            entry for found, image in zip(examples, image_ids.tolist(), strict=True) for entry in _entries(found, image)
        ],
        "categories": [{"id": number, "name": name} for number, name in enumerate(classes, 1)],
    }


def _entries(found: Instances, image: int) -> list[dict[str, Any]]:
    entries = []
    for row, (x1, y1, x2, y2) in enumerate(found.boxes.astype(np.float64).tolist()):
        entry = {
            "id": int(found.ids[row]),
            "image_id": image,
            "category_id": int(found.labels[row]) + 1,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": float(found.areas[row]),
            "iscrowd": int(found.crowd[row]),
        }
        if found.segments is not None:
            entry["segmentation"] = found.segments[row]
        entries.append(entry)
    return entries


def instances_of_bitmaps(
    index: int, bitmaps: Sequence[np.ndarray], labels: Sequence[int], ids: Sequence[int], crowd: Sequence[bool]
) -> Instances:
    """Returns the objects with the given pixels, and the smallest boxes around them.

    Args:
      index: index of the image in its source.
      bitmaps: pixels of each object, `[H, W]` bool, with at least one pixel.
      labels: class of each object.
      ids: id of each object.
      crowd: whether each object is marked as crowd.
    """
    boxes = np.zeros((len(bitmaps), 4), np.float32)
    for row, pixels in enumerate(bitmaps):
        ys, xs = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
        boxes[row] = xs[0], ys[0], xs[-1] + 1, ys[-1] + 1
    return Instances(
        index,
        boxes,
        np.array(labels, np.int32),
        np.array(crowd, bool),
        np.array([pixels.sum() for pixels in bitmaps], np.float32),
        np.array(ids, np.int64),
        [encode_bitmap(pixels.astype(np.uint8)) for pixels in bitmaps],
    )
