"""A tiny real data set with masks: nuclei of cells in a microscope picture of the package stardist."""

from __future__ import annotations

import io
import threading
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

from focalnet_jax.data.decode import PILLOWS_ERRORS, Picture
from focalnet_jax.data.instances import Instances
from focalnet_jax.data.source import fingerprint_of
from focalnet_jax.errors import UserError
from focalnet_jax.tasks.detection.examples import package_file
from focalnet_jax.tasks.detection.tiles import LEAST_SHARE, Tile, tiles
from focalnet_jax.tasks.detection.truth import as_coco, instances_of_bitmaps

PACKAGE, VERSION = "stardist", "0.9.2"
SIDE = 128  # pixels of a tile
SPLITS = ("train", "val")
_VAL_SHARE = 0.75  # val is the part of the picture to the right of this share of its width
_FOLDER = "stardist/data/images"
_WHITE = 99.8  # percentile of the brightness that becomes white, because single pixels are far brighter
_LOCK = threading.Lock()


class Nuclei:
    """Tiles of a fluorescence picture of 512x512 pixels with 125 nuclei, each with a mask.

    The left three quarters of the picture are the split `train`, the right quarter is the split `val`. The tiles do not
    overlap. If less than 40% of a nucleus is inside a tile, this part is marked as crowd: it is not a target, and a
    detection of it does not count as an error in an evaluation.

    Args:
      split: train or val.
      side: approximate height and width of a tile in pixels.

    Attributes:
      class_names: nucleus.
      category_ids: 1.
      sizes: height and width of each tile, `[n, 2]`.
      image_ids: 1 to n.
      has_masks: True.
      fingerprint: text that differs between different data.

    Raises:
      UserError: the split does not exist, or stardist is not installed or is damaged.
    """

    class_names = ("nucleus",)
    category_ids = (1,)
    has_masks = True

    def __init__(self, split: str, side: int = SIDE):
        if split not in SPLITS:
            raise UserError(f"data.source=nuclei has no split {split!r}; expected {' or '.join(SPLITS)}")
        pixels, numbers = picture()
        height, width = numbers.shape
        border = round(width * _VAL_SHARE)
        left, part = (border, width - border) if split == "val" else (0, border)
        self._tiles: list[Tile] = [(top, left + column, *size) for top, column, *size in tiles(height, part, side)]
        self._examples = [self._cut(index) for index in range(len(self._tiles))]
        self.sizes = np.array([tile[2:] for tile in self._tiles], np.int32)
        self.image_ids = np.arange(1, len(self._tiles) + 1)
        self.fingerprint = fingerprint_of(["nuclei", split, str(self._tiles), str(int(pixels.sum(dtype=np.int64)))])

    def __len__(self) -> int:
        return len(self._tiles)

    def __getitem__(self, index: int) -> tuple[Picture, Instances]:
        top, left, height, width = self._tiles[index]
        pixels = picture()[0][top : top + height, left : left + width]
        return np.ascontiguousarray(pixels), self._examples[index]

    def _cut(self, index: int) -> Instances:
        numbers, (top, left, height, width) = picture()[1], self._tiles[index]
        inside = numbers[top : top + height, left : left + width]
        found = [number for number in np.unique(inside).tolist() if number]
        bitmaps = [inside == number for number in found]
        whole = [(numbers == number).sum() for number in found]
        crowd = [bitmap.sum() < LEAST_SHARE * size for bitmap, size in zip(bitmaps, whole, strict=True)]
        ids = [1 + index * (int(numbers.max()) + 1) + number for number in found]
        return instances_of_bitmaps(index, bitmaps, [0] * len(found), ids, crowd)

    def name(self, index: int) -> str:
        """Returns the position of a tile in the picture."""
        top, left, *_ = self._tiles[index]
        return f"nuclei from row {top}, column {left}"

    def ground_truth(self) -> dict[str, Any]:
        """Returns the annotations of the split as the content of a COCO file."""
        names = [self.name(index) for index in range(len(self))]
        return as_coco(self._examples, names, self.sizes, self.image_ids, self.class_names)


def picture() -> tuple[np.ndarray, np.ndarray]:
    """Returns the grey picture `[H, W, 3]` uint8, and the number of the nucleus in each pixel, `[H, W]` int32, or 0.

    Raises:
      UserError: stardist is not installed or is damaged.
    """
    with _LOCK:  # otherwise each thread of a reader process would load the picture
        return _load()


@cache
def _load() -> tuple[np.ndarray, np.ndarray]:
    try:
        brightness, numbers = (
            np.asarray(Image.open(io.BytesIO(package_file("nuclei", PACKAGE, VERSION, f"{_FOLDER}/{name}"))))
            for name in ("img2d.tif", "mask2d.tif")
        )
        if brightness.shape != numbers.shape or brightness.ndim != 2:
            raise ValueError(f"shapes {brightness.shape} and {numbers.shape}")
    except UserError:
        raise
    except PILLOWS_ERRORS as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"the package {PACKAGE} is damaged ({reason}): pip install --force-reinstall --no-deps {PACKAGE}=={VERSION}"
        ) from error
    grey = np.clip(brightness / np.percentile(brightness, _WHITE) * 255, 0, 255).round().astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1), numbers.astype(np.int32)
