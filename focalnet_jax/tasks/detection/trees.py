"""A small real data set with boxes: trees in aerial pictures of the package deepforest."""

from __future__ import annotations

import threading
import xml.etree.ElementTree as ET
from functools import cache
from typing import Any

import numpy as np

from focalnet_jax.data.decode import Picture, UnreadableImageError, decode
from focalnet_jax.data.instances import Instances
from focalnet_jax.data.source import fingerprint_of
from focalnet_jax.errors import UserError
from focalnet_jax.tasks.detection.examples import package_file
from focalnet_jax.tasks.detection.tiles import LEAST_SHARE, Tile, cut_boxes, tiles
from focalnet_jax.tasks.detection.truth import as_coco

PACKAGE, VERSION = "deepforest", "2.1.0"
SIDE = 256  # pixels per side of a tile; a pixel covers 10 cm
# File names of the pictures and of their annotations. Both splits contain woods in Yellowstone (YELL), 13 km apart;
# train also has pictures of Florida (OSBS) and California (SOAP).
PICTURES = {
    "train": (
        ("2019_YELL_2_528000_4978000_image_crop2.png", "2019_YELL_2_528000_4978000_image_crop2.xml"),
        ("OSBS_029.png", "OSBS_029.xml"),
        ("SOAP_061.png", "SOAP_061.xml"),
    ),
    "val": (("2019_YELL_2_541000_4977000_image_crop.png", "2019_YELL_2_541000_4977000_image_crop.xml"),),
}
_LOCK = threading.Lock()


class Trees:
    """Tiles of aerial pictures of woods from NEON's flights, annotated with a box for each tree crown.

    Three pictures are the split `train`, another one the split `val`. The tiles of a picture do not overlap. If less
    than 40% of the box of a tree is inside a tile, this part is marked as crowd: it is not a target, and a detection of
    it does not count as an error in an evaluation.

    Args:
      split: train or val.
      side: approximate height and width of a tile in pixels.

    Attributes:
      class_names: tree.
      category_ids: 1.
      sizes: height and width of each tile, `[n, 2]`.
      image_ids: 1 to n.
      has_masks: False.
      fingerprint: text that differs between different data.

    Raises:
      UserError: the split does not exist, or deepforest is not installed or is damaged.
    """

    class_names = ("tree",)
    category_ids = (1,)
    has_masks = False

    def __init__(self, split: str, side: int = SIDE):
        if split not in PICTURES:
            raise UserError(f"data.source=trees has no split {split!r}; expected {' or '.join(PICTURES)}")
        self._tiles: list[tuple[tuple[str, str], Tile]] = []
        boxes = []
        for files in PICTURES[split]:
            pixels, found = picture(*files)
            self._tiles += [(files, tile) for tile in tiles(*pixels.shape[:2], side)]
            boxes.append(found.tobytes().hex())
        self.sizes = np.array([tile[2:] for _, tile in self._tiles], np.int32)
        self.image_ids = np.arange(1, len(self._tiles) + 1)
        counts = [len(cut_boxes(picture(*files)[1], tile)[0]) for files, tile in self._tiles]
        self._first_ids = np.concatenate([[1], 1 + np.cumsum(counts)])
        self.fingerprint = fingerprint_of(["trees", split, str(self._tiles), *boxes])

    def __len__(self) -> int:
        return len(self._tiles)

    def __getitem__(self, index: int) -> tuple[Picture, Instances]:
        files, (top, left, height, width) = self._tiles[index]
        pixels = picture(*files)[0][top : top + height, left : left + width]
        return np.ascontiguousarray(pixels), self._objects(index)

    def _objects(self, index: int) -> Instances:
        files, tile = self._tiles[index]
        boxes, _, shares = cut_boxes(picture(*files)[1], tile)
        ids = self._first_ids[index] + np.arange(len(boxes))
        areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
        return Instances(index, boxes, np.zeros(len(boxes), np.int32), shares < LEAST_SHARE, areas, ids)

    def name(self, index: int) -> str:
        """Returns the name of the picture, and the position of the tile in it."""
        (file, _), (top, left, *_) = self._tiles[index]
        return f"{file} from row {top}, column {left}"

    def ground_truth(self) -> dict[str, Any]:
        """Returns the annotations of the split as the content of a COCO file."""
        found = [self._objects(index) for index in range(len(self))]
        names = [self.name(index) for index in range(len(self))]
        return as_coco(found, names, self.sizes, self.image_ids, self.class_names)


def picture(image: str, annotations: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns a picture `[H, W, 3]` uint8 and its boxes, x1, y1, x2, y2 `[n, 4]` float32.

    Args:
      image: file name of the picture.
      annotations: file name of the annotations of the picture.

    Raises:
      UserError: deepforest is not installed or is damaged.
    """
    with _LOCK:  # otherwise each thread of a reader process would load the picture
        return _load(image, annotations)


@cache
def _load(image: str, annotations: str) -> tuple[np.ndarray, np.ndarray]:
    encoded, text = (
        package_file("trees", PACKAGE, VERSION, f"deepforest/data/{name}") for name in (image, annotations)
    )
    try:
        pixels = decode(encoded)
        boxes = [
            [float(box.findtext(side)) for side in ("xmin", "ymin", "xmax", "ymax")]
            for box in ET.fromstring(text).iterfind("object/bndbox")
        ]
        return pixels, np.array(boxes, np.float32).reshape(-1, 4)
    except (UnreadableImageError, ET.ParseError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"the package {PACKAGE} is damaged ({image}: {reason}): pip install --force-reinstall --no-deps "
            f"{PACKAGE}=={VERSION}"
        ) from error
