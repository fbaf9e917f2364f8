"""Opens the sources of images with masks by their names in configs."""

from __future__ import annotations

import sys
from typing import Protocol

import numpy as np
from ml_collections import ConfigDict, FrozenConfigDict

from focalnet_jax.data.decode import Picture
from focalnet_jax.data.masks import MaskCoding, StoredMask
from focalnet_jax.data.staged import local_folder
from focalnet_jax.errors import UserError, suggest
from focalnet_jax.tasks.segmentation.blue_marble import BlueMarble
from focalnet_jax.tasks.segmentation.composites import DigitComposites
from focalnet_jax.tasks.segmentation.folder import LAYOUT, PairFolder

SOURCES = ("digits", "bluemarble", "folder", "tfds")


class PairSource(Protocol):
    """A split of images with masks, whose examples are read by index. `decode_pair` decodes an example.

    Attributes:
      class_names: names of the classes 0, 1, ...
      palette: colours in which the classes are drawn, `[K, 3]` uint8, or None.
      coding: coding of the masks.
      size: height and width of every image, or None if they may differ.
      fingerprint: text that differs between different data.
    """

    class_names: tuple[str, ...]
    palette: np.ndarray | None
    coding: MaskCoding
    size: tuple[int, int] | None
    fingerprint: str

    def __len__(self) -> int:
        """Returns the number of examples."""

    def __getitem__(self, index: int) -> tuple[Picture, StoredMask]:
        """Returns the image and its mask, as they are stored."""

    def name(self, index: int) -> str:
        """Returns the name of an example for messages, such as its path."""


def open_segmentation_source(data: ConfigDict | FrozenConfigDict, split: str) -> PairSource:
    """Opens a split of the images with masks that a config's `data` section describes.

    Args:
      data: `source` (one of `SOURCES`), `path`, `cache` and `train_split`; `classes` (file with the classes),
        `reduce_zero_label` and `tile` (height and width of a tile of Blue Marble in pixels) may be missing or None. In
        every split except `train_split`, an image without a mask is an error.
      split: name of the split.

    Raises:
      UserError: the source is unknown or cannot be opened.
    """
    name, path = data.source, data.path
    classes, reduce, tile = data.get("classes"), data.get("reduce_zero_label"), data.get("tile")
    if name in ("digits", "bluemarble"):
        unused = {"path": path, "classes": classes, "reduce_zero_label": reduce}
        for key, value in unused.items():
            if value not in (None, False):
                raise UserError(
                    f"data.{key}={value} is not used with data.source={name}: remove it, or set another source"
                )
        return DigitComposites(split) if name == "digits" else BlueMarble(split, **({"side": tile} if tile else {}))
    if name == "folder":
        with local_folder(path, data.cache, ".", LAYOUT) as folder:
            source = PairFolder(folder, split, classes, reduce, complete=split != data.train_split)
        if source.note:
            print(source.note, file=sys.stderr)
        return source
    if name == "tfds":
        from focalnet_jax.tasks.segmentation.records import PairRecords  # because only this source needs TFDS

        return PairRecords(path, split, data.cache, classes, reduce)
    raise UserError(
        f"data.source={name!r} has no masks; expected {', '.join(SOURCES)} for config.task=segmentation."
        f"{suggest(str(name), SOURCES)}"
    )
