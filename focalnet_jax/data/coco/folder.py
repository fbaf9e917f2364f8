"""Reads images and annotations in COCO's format from a folder of images and a JSON file."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from focalnet_jax.data.coco.annotations import Annotations, check_annotations
from focalnet_jax.data.coco.entries import Images, check_categories, check_images
from focalnet_jax.data.coco.parsing import parse_coco, read_json
from focalnet_jax.data.decode import Picture
from focalnet_jax.data.instances import Instances
from focalnet_jax.data.source import fingerprint_of
from focalnet_jax.errors import UserError, abbreviated

MIN_SIDE = 32  # pixels; training images with a shorter side are left out, as in mmdetection
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

    The classes are numbered from 0 in the order of the file.

    Args:
      path: folder with `LAYOUT`; None if `annotations` and `images` are given.
      split: name of the split.
      annotations: JSON file; None: found in `path`.
      images: folder of the images; None: found in `path`.
      training: whether images are left out that have no annotations, or a side shorter than `min_side`.
      min_side: smallest side in pixels of a training image.
      masks: whether polygons and run-length encodings are read.

    Attributes:
      class_names: names of the classes.
      category_ids: ids of the classes in the file.
      sizes: height and width of each image according to the file, `[n, 2]` int32.
      image_ids: ids of the images, `[n]` int64.
      has_masks: whether the objects have polygons or run-length encodings.
      note: lines about annotations and images that are left out or changed; empty if there are none.
      problems: the same, by kind, see `Problems`.
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
        self._places, notes = kept_images(self._images, self._annotations, training, min_side, str(file))
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


def ground_truth(self) -> dict[str, Any]:
    """Returns the content of a COCO file for an evaluation of this split.

    As in COCO's tools, it contains the crowds and the objects that are not used for training.
    """
    return ground_truth(
        [self._images.entry(place) for place in self._places.tolist()],
        [
            self._annotations.entries(place, int(self._images.ids[place]), self.category_ids)
            for place in self._places.tolist()
        ],
        self._classes.entries(),
    )


def ground_truth(
    images: list[dict[str, Any]], objects: Sequence[list[dict[str, Any]]], categories: list[dict[str, Any]]
) -> dict[str, Any]:
    """Returns the content of a COCO file.

    COCO's tools use the id 0 for no match, so annotations are numbered from 1 if one has the id 0.

    Args:
      images: entries of the images.
      objects: entries of the objects of each image.
      categories: entries of the classes.
    """
    annotations = [entry for entries in objects for entry in entries]
    if any(entry["id"] == 0 for entry in annotations):
        annotations = [entry | {"id": number} for number, entry in enumerate(annotations, 1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def kept_images(
    images: Images, annotations: Annotations, training: bool, min_side: int, name: str
) -> tuple[np.ndarray, list[str]]:
    """Returns the numbers of the images of a split, `[n]`, and lines about those that are left out.

    Args:
      images: all images.
      annotations: their objects.
      training: whether to leave out images without annotations and small images, as mmdetection does.
      min_side: smallest side of a training image in pixels.
      name: name of the data, for messages.

    Raises:
      UserError: no image is left.
    """
    if not training:
        return np.arange(len(images)), []
    small, empty = images.sizes.min(axis=1) < min_side, annotations.counts() == 0
    places = np.flatnonzero(~small & ~empty)
    if not len(places):
        raise UserError(
            f"{name}: none of the {len(images)} images can be used for training; {empty.sum()} have no annotations, "
            f"{(small & ~empty).sum()} have a side of less than {min_side} pixels (data.min_side)"
        )
    notes = []
    if empty.any():
        notes.append(f"left out: {empty.sum():,} images without annotations (such as {images.names[empty.argmax()]})")
    if (small & ~empty).any():
        first = images.names[(small & ~empty).argmax()]
        notes.append(
            f"left out: {(small & ~empty).sum():,} images with a side below {min_side} pixels (such as {first})"
        )
    return places, notes


def unused_classes(annotations: Annotations, classes: int) -> list[int]:
    """Returns the numbers of the classes without objects that can be used."""
    labels = annotations.labels[annotations.used & ~annotations.crowd]
    return np.flatnonzero(np.bincount(labels, minlength=classes) == 0).tolist()


def identity(annotations: Annotations, places: np.ndarray, image_ids: np.ndarray) -> list[str]:
    """Returns strings that differ between different annotations."""
    arrays = (places, image_ids, annotations.ids, annotations.labels, annotations.boxes, annotations.areas)
    flags = (annotations.crowd, annotations.ignored, annotations.used)
    return [np.ascontiguousarray(array).tobytes().decode("latin-1") for array in (*arrays, *flags)]


def _find_json(path: str | None, split: str) -> Path:
    """Returns the JSON file of a split.

    Raises:
      UserError: there is none.
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
      UserError: there is none.
    """
    if not path:
        raise UserError(f"data.annotations={file} needs data.images, the folder of the images, or data.path")
    folders = [Path(path, folder.format(split)) for folder in _IMAGES]
    found = next((folder for folder in folders if (folder / name).is_file()), None)
    if found is None:
        tried = [str(folder) for folder in folders if folder.is_dir()]
        raise UserError(
            f"the image {name} of {file} is in none of {', '.join(tried)}: expected {LAYOUT}, or give the folder of "
            "the images with data.images"
        )
    return found


def _refuse_missing(folder: Path, names: Sequence[str], file: Path) -> None:
    """Raises `UserError` if images are missing."""
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
