"""Selects the images of a split, and converts annotations to the content of a COCO file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from focalnet_jax.data.coco.annotations import Annotations
from focalnet_jax.errors import UserError

MIN_SIDE = 32  # pixels; training images with a shorter side are left out, as in mmdetection


def images_file(split: str) -> str:
    """Returns the name of the file in a prepared data set that lists the ids and sizes of a split's images."""
    return f"images_{split}.json"


def ground_truth(
    images: list[dict[str, Any]], objects: Sequence[list[dict[str, Any]]], categories: list[dict[str, Any]]
) -> dict[str, Any]:
    """Returns the content of a COCO file.

    If an annotation has an id below 1, all annotations are numbered from 1, because pycocotools uses the id 0 for "no
    match", and hotcoco rejects negative ids.

    Args:
      images: entries of the images.
      objects: entries of the objects of each image.
      categories: entries of the classes.
    """
    annotations = [entry for entries in objects for entry in entries]
    if any(entry["id"] < 1 for entry in annotations):
        annotations = [entry | {"id": number} for number, entry in enumerate(annotations, 1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def kept_images(
    sizes: np.ndarray, counts: np.ndarray, names: Sequence[str], training: bool, min_side: int, title: str
) -> tuple[np.ndarray, list[str]]:
    """Returns the indices of the images to use, ascending, `[n]`, and lines about the images that are left out.

    Args:
      sizes: height and width of all images of the split, `[images, 2]`.
      counts: number of annotations of each image, `[images]`.
      names: file names of the images.
      training: whether to leave out images without annotations and small images, as mmdetection does.
      min_side: smallest side of a training image in pixels.
      title: name of the data, for messages.

    Raises:
      UserError: no image is left.
    """
    if not training:
        return np.arange(len(sizes)), []
    small, empty = sizes.min(axis=1) < min_side, counts == 0
    places = np.flatnonzero(~small & ~empty)
    if not len(places):
        raise UserError(
            f"{title}: none of the {len(sizes)} images can be used for training; {empty.sum()} have no annotations, "
            f"{(small & ~empty).sum()} have a side of less than {min_side} pixels: decrease "
            "data.min_side, or add annotations"
        )
    notes = []
    if empty.any():
        notes.append(f"left out: {empty.sum():,} images without annotations (such as {names[empty.argmax()]})")
    if (small & ~empty).any():
        first = names[(small & ~empty).argmax()]
        notes.append(
            f"left out: {(small & ~empty).sum():,} images with a side below {min_side} pixels (such as {first})"
        )
    return places, notes


def unused_classes(annotations: Annotations, classes: int) -> list[int]:
    """Returns the numbers of the classes without objects for training; crowds do not count."""
    labels = annotations.labels[annotations.used & ~annotations.crowd]
    return np.flatnonzero(np.bincount(labels, minlength=classes) == 0).tolist()


def identity(annotations: Annotations, places: np.ndarray, image_ids: np.ndarray) -> list[str]:
    """Returns strings for a fingerprint, which differ if the annotations or the chosen images `places` differ."""
    arrays = (places, image_ids, annotations.ids, annotations.labels, annotations.boxes, annotations.areas)
    flags = (annotations.crowd, annotations.ignored, annotations.used)
    return [np.ascontiguousarray(array).tobytes().decode("latin-1") for array in (*arrays, *flags)]
