"""Reads images and annotations in COCO's format from a folder of images and a JSON file."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from focalnet_jax.data.coco.annotations import check_annotations
from focalnet_jax.data.coco.entries import check_categories, check_images
from focalnet_jax.data.coco.parsing import parse_coco, read_json
from focalnet_jax.data.coco.splits import MIN_SIDE, ground_truth, identity, kept_images, unused_classes
from focalnet_jax.data.decode import Picture
from focalnet_jax.data.instances import Instances
from focalnet_jax.data.source import fingerprint_of
from focalnet_jax.errors import UserError, abbreviated

LAYOUT = (
    "annotations/instances_SPLIT2017.json (or instances_SPLIT.json) and images in SPLIT2017/, SPLIT/ or images/SPLIT/"
)
_JSONS = (
    "annotations/instances_{}2017.json", "annotations/instances_{}.json", "annotations/{}.json",
    "instances_{}2017.json", "instances_{}.json", "{}/_annotations.coco.json",
)  # fmt: skip
_IMAGES = ("{}2017", "{}", "images/{}2017", "images/{}", "images", ".")


class CocoFolder:
    """A split of images with boxes and masks: a JSON file in COCO's format, and a folder of images.

    A class number is the index of the class in the file.

    Args:
      path: folder with the files of `LAYOUT`; None if `annotations` and `images` are given.
      split: name of the split.
      annotations: JSON file, or None to find it in `path`.
      images: folder of the images, or None to find it in `path`.
      training: whether to leave out images that have no annotations or a side shorter than `min_side`.
      min_side: smallest side in pixels of a training image.
      masks: whether to read polygons and run-length encodings.

    Attributes:
      class_names: names of the classes.
      category_ids: ids of the classes in the file.
      sizes: height and width of each image according to the file, `[n, 2]` int32.
      image_ids: ids of the images, `[n]` int64.
      has_masks: whether the objects have polygons or run-length encodings.
      note: lines about annotations and images that are left out, not used for training or corrected, and about training
        classes without objects; empty if there are none.
      problems: the annotations in `note` by kind, see `Problems`.
      fingerprint: text that differs between different data.

    Raises:
      UserError: a file or folder is missing, or the file is damaged or inconsistent; see `check_annotations`.
    """

    def __init__(
        self,
        path: str | None,
        split: str,
        annotations: str | None = None,
        images: str | None = None,
        *,
        training: bool = False,
        min_side: int = MIN_SIDE,
        masks: bool = True,
    ):
        file = Path(annotations) if annotations else _find_json(path, split)
        parsed = parse_coco(read_json(file), file, masks=masks)
        self._images, classes = check_images(parsed.images, str(file)), check_categories(parsed.categories, str(file))
        self.class_names, self.category_ids, self._classes = classes.names, classes.ids, classes
        self._annotations, self.problems = check_annotations(
            parsed.annotations, self._images.ids, self._images.sizes, classes.ids, str(file), masks=masks
        )
        del parsed
        self._folder = Path(images) if images else _find_images(path, split, self._images.names[0], file)
        _refuse_missing(self._folder, self._images.names, file)
        self.has_masks = self._annotations.segments is not None
        self._places, notes = kept_images(
            self._images.sizes, self._annotations.counts(), self._images.names, training, min_side, str(file)
        )
        self.sizes, self.image_ids = self._images.sizes[self._places], self._images.ids[self._places]
        unseen = [classes.names[label] for label in unused_classes(self._annotations, len(classes.ids))]
        if unseen and training:
            notes.append(f"{len(unseen)} classes have no objects: {abbreviated(unseen)}")
        self.note = "\n".join(f"{file}: {line}" for line in [*notes, *self.problems.lines()])
        self.fingerprint = fingerprint_of(
            ["coco", *self._images.names, *classes.names, *identity(self._annotations, self._places, self.image_ids)]
        )

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> tuple[Picture, Instances]:
        place = int(self._places[index])
        return self.name(index), self._annotations.of(place, index, tuple(self._images.sizes[place].tolist()))

    def name(self, index: int) -> str:
        """Returns the path of an image."""
        return os.path.join(self._folder, self._images.names[self._places[index]])

    def ground_truth(self) -> dict[str, Any]:
        """Returns the content of a COCO file for an evaluation of this split.

        As in COCO's tools, it contains the crowds and the objects that are not used for training.
        """
        images = [self._images.entry(place) for place in self._places.tolist()]
        objects = [
            self._annotations.entries(place, image, self.category_ids)
            for place, image in zip(self._places.tolist(), images, strict=True)
        ]
        return ground_truth(images, objects, self._classes.entries())


def _find_json(path: str | None, split: str) -> Path:
    """Returns the JSON file of a split.

    Raises:
      UserError: there is no such file, or no path is given.
    """
    if not path or not split:
        raise UserError(
            f"data.source=coco needs data.path, a folder with {LAYOUT}; or data.annotations and data.images"
        )
    root = Path(path)
    if not root.is_dir():
        state = "is a file" if root.exists() else "does not exist"
        raise UserError(f"data.path={root} {state}; expected a folder with {LAYOUT}")
    found = next((root / name.format(split) for name in _JSONS if (root / name.format(split)).is_file()), None)
    if found is not None:
        return found
    held = sorted(
        file.relative_to(root).as_posix() for pattern in ("*.json", "*/*.json") for file in root.glob(pattern)
    )
    raise UserError(
        f"{root} has no annotations of the split {split!r}; its JSON files are {abbreviated(held, 8) or 'none'}: "
        f"expected {LAYOUT}, or give the files with data.annotations"
    )


def _find_images(path: str | None, split: str, name: str, file: Path) -> Path:
    """Returns the folder of the images of a split, which contains the image `name`.

    Raises:
      UserError: there is no such folder, or no path is given.
    """
    if not path:
        raise UserError(f"data.annotations={file} needs data.images, the folder of the images, or data.path")
    folders = [Path(path, folder.format(split)) for folder in _IMAGES]
    found = next((folder for folder in folders if (folder / name).is_file()), None)
    if found is None:
        tried = [str(folder) for folder in folders if folder.is_dir()]
        raise UserError(
            f"the image {name} of {file} is not in {' or '.join(tried) or path}: expected {LAYOUT}, or give the folder "
            "of the images with data.images"
        )
    return found


def _refuse_missing(folder: Path, names: Sequence[str], file: Path) -> None:
    """Raises `UserError` if `folder` lacks images of the annotation file."""
    by_parent: dict[str, list[str]] = defaultdict(list)
    for name in names:
        by_parent[os.path.dirname(name)].append(name)
    missing = []
    for parent, inside in by_parent.items():
        try:
            with os.scandir(folder / parent) as entries:
                held = {entry.name for entry in entries}
        except OSError:
            held = set()
        missing += [name for name in inside if os.path.basename(name) not in held]
    if missing:
        raise UserError(
            f"{len(missing):,} of {len(names):,} images of {file} are not in {folder}, such as {missing[0]}: add them, "
            "or remove them from the file"
        )
