"""Writes small data sets in COCO's format."""

import json

import numpy as np
from PIL import Image

from tests.data.pictures import encoded

CATEGORIES = [{"id": 3, "name": "zebra"}, {"id": 1, "name": "apple"}, {"id": 90, "name": "kite"}]
SIZES = ((60, 80), (64, 48), (50, 50), (40, 100))  # heights and widths


def coco_content(images=6, seed=0, sizes=SIZES):
    """Returns the content of a COCO file: three objects per image with polygons, a crowd, and an empty last image.

    The ids have gaps, the first image has the id 100, and the classes are not sorted by id or name.
    """
    rng = np.random.default_rng(seed)
    entries, annotations = [], []
    for number in range(images):
        height, width = sizes[number % len(sizes)]
        entries.append({"id": 100 + 7 * number, "file_name": f"{number:06d}.jpg", "height": height, "width": width})
        if number == images - 1:
            break
        for _ in range(3):
            x, y = rng.uniform(0, 15, 2).round(2).tolist()
            w, h = rng.uniform(5, 25, 2).round(2).tolist()
            category = CATEGORIES[rng.integers(len(CATEGORIES))]["id"]
            annotations.append(annotation(1 + 3 * len(annotations), entries[-1]["id"], category, [x, y, w, h]))
        if number == 1:
            runs = {"size": [height, width], "counts": [height * 5, height * 10, height * (width - 15)]}
            crowd = annotation(1 + 3 * len(annotations), entries[-1]["id"], 1, [5.0, 0.0, 10.0, float(height)])
            annotations.append(crowd | {"iscrowd": 1, "segmentation": runs, "area": 10.0 * height})
    order = rng.permutation(len(annotations))  # as in the official files, not sorted by image
    return {
        "info": {"year": 2017},
        "images": entries,
        "annotations": [annotations[place] for place in order],
        "categories": [dict(category) for category in CATEGORIES],
    }


def annotation(number, image, category, box, **more):
    """Returns an annotation whose polygon is a hexagon in its box x, y, width, height."""
    x, y, w, h = box
    around = [(0.25, 0), (0.75, 0), (1, 0.5), (0.75, 1), (0.25, 1), (0, 0.5)]
    polygon = [round(value, 2) for u, v in around for value in (x + u * w, y + v * h)]
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "bbox": box,
        "area": 0.75 * w * h,
        "iscrowd": 0,
        "segmentation": [polygon],
    } | more


def picture(number, size):
    """Returns the JPEG of an image of height and width `size`."""
    rng = np.random.default_rng(number)
    return encoded(Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)))


def write_coco(folder, **splits):
    """Writes annotations/instances_SPLIT2017.json and images in SPLIT2017/ for the content of each split.

    Returns the folder.
    """
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    for split, content in splits.items():
        (folder / f"annotations/instances_{split}2017.json").write_text(json.dumps(content))
        (folder / f"{split}2017").mkdir(exist_ok=True)
        for number, entry in enumerate(content["images"]):
            path = folder / f"{split}2017" / entry["file_name"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture(number, (entry["height"], entry["width"])))
    return folder
