"""Converts the objects of a source to the content of a COCO file, for tools that compute average precision."""

from __future__ import annotations

from typing import Any

import numpy as np


def coco_content(source: Any) -> dict[str, Any]:
    """Returns images, annotations and categories of a `DetectionSource` in COCO's format, without masks."""
    annotations = []
    for index in range(len(source)):
        instances = source[index][1]
        sides = instances.boxes[:, 2:] - instances.boxes[:, :2]
        boxes = np.concatenate([instances.boxes[:, :2], sides], axis=1).tolist()
        for place, box in enumerate(boxes):
            annotations.append(
                {
                    "id": int(instances.ids[place]),
                    "image_id": int(source.image_ids[index]),
                    "category_id": int(source.category_ids[instances.labels[place]]),
                    "bbox": box,
                    "area": float(instances.areas[place]),
                    "iscrowd": int(instances.crowd[place]),
                }
            )
    ids = zip(source.image_ids.tolist(), np.asarray(source.sizes).tolist(), strict=True)
    categories = zip(source.category_ids, source.class_names, strict=True)
    return {
        "images": [{"id": each, "height": height, "width": width} for each, (height, width) in ids],
        "annotations": annotations,
        "categories": [{"id": each, "name": name} for each, name in categories],
    }
