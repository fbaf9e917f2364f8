"""Opens the sources of images with boxes by their names in configs."""

from __future__ import annotations

import sys
from typing import Any, Protocol

import numpy as np
from ml_collections import ConfigDict, FrozenConfigDict

from focalnet_jax.data.decode import Picture
from focalnet_jax.data.instances import Instances
from focalnet_jax.data.staged import local_folder
from focalnet_jax.distributed.startup import is_first
from focalnet_jax.errors import UserError, suggest
from focalnet_jax.storage.address import is_bucket

SOURCES = ("digits", "trees", "nuclei", "coco", "tfds")


class DetectionSource(Protocol):
    """A split of images with annotated objects, whose examples are read by index.

    Attributes:
      class_names: names of the classes 0, 1, ...
      fingerprint: text that differs between different data.
      sizes: height and width of each image in pixels, `[n, 2]`.
      image_ids: ids of the images in the data set, `[n]`.
      category_ids: ids of the classes in the data set.
      has_masks: whether the objects have masks.
    """

    class_names: tuple[str, ...]
    fingerprint: str
    sizes: np.ndarray
    image_ids: np.ndarray
    category_ids: tuple[int, ...]
    has_masks: bool

    def __len__(self) -> int:
        """Returns the number of examples."""

    def __getitem__(self, index: int) -> tuple[Picture, Instances]:
        """Returns an image, as it is stored, and its objects."""

    def name(self, index: int) -> str:
        """Returns the name of an example for messages, such as its path."""

    def ground_truth(self) -> dict[str, Any]:
        """Returns the annotations of the split as the content of a COCO file: images, annotations and categories."""


def open_detection_source(
    data: ConfigDict | FrozenConfigDict, split: str, *, training: bool = False, masks: bool = False
) -> DetectionSource:
    """Opens a split of the images with objects that a config's `data` section describes.

    Args:
      data: `source` (one of `SOURCES`), `path`, `cache`, `train_split`, `annotations`, `images` and `min_side`.
      split: name of the split.
      training: whether to leave out images without objects, and images with a side shorter than `min_side`.
      masks: whether to read the masks of the objects. With `training`, the source must have masks.

    Raises:
      UserError: the source is unknown or cannot be opened, or lacks masks.
    """
    source = _open(data, split, training, masks)
    if training and masks and not source.has_masks:
        raise UserError(
            f"split {split} of data.source={data.source} has no masks, which config.head.name needs: give data with "
            "segmentation, or another head.name"
        )
    return source


def _open(data: ConfigDict | FrozenConfigDict, split: str, training: bool, masks: bool) -> DetectionSource:
    """Opens the source, see `open_detection_source`, without checking that it has masks."""
    name, path = data.source, data.path
    chosen = [None if each is None else each[split != data.train_split] for each in (data.annotations, data.images)]
    given = {"path": path, "annotations": data.annotations, "images": data.images}
    unused = {"coco": (), "tfds": ("annotations", "images")}.get(name, tuple(given))
    for key in unused:
        if name in SOURCES and given[key] is not None:
            raise UserError(
                f"data.{key}={given[key]} is not used with data.source={name}: remove it, or set another source"
            )
    # Each source is imported only when it is used, because some sources need further packages.
    if name == "digits":
        from focalnet_jax.tasks.detection.composites import DigitComposites

        return DigitComposites(split)
    if name == "trees":
        from focalnet_jax.tasks.detection.trees import Trees

        return Trees(split)
    if name == "nuclei":
        from focalnet_jax.tasks.detection.nuclei import Nuclei

        return Nuclei(split)
    options = {"training": training, "min_side": data.min_side, "masks": masks}
    if name == "coco":
        from focalnet_jax.data.coco.folder import LAYOUT, CocoFolder

        for key in ("annotations", "images"):
            if any(is_bucket(each) for each in data.get(key) or ()):
                raise UserError(
                    f"data.{key}={data.get(key)}: expected local paths, because only data.path may be in a bucket (gs://)"
                )
        if path is None:
            return _with_note(CocoFolder(None, split, *chosen, **options))
        with local_folder(path, data.cache, ".", LAYOUT) as folder:
            return _with_note(CocoFolder(folder, split, *chosen, **options))
    if name == "tfds":
        from focalnet_jax.tasks.detection.records import CocoRecords

        return _with_note(CocoRecords(path, split, data.cache, **options))
    raise UserError(
        f"data.source={name!r} has no boxes; expected {', '.join(SOURCES)} for config.task=detection."
        f"{suggest(str(name), SOURCES)}"
    )


def _with_note(source: Any) -> DetectionSource:
    """Prints the note of a source about problems in the data, and returns the source."""
    if source.note and is_first():
        print(source.note, file=sys.stderr)
    return source
