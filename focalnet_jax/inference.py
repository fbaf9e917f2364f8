"""Loads predictors from weights of any task, and finds and reads images to predict."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from focalnet_jax.convert.weights_task import weights_task
from focalnet_jax.data.decode import UnreadableImageError, decode
from focalnet_jax.data.formats import IMAGE_SUFFIXES
from focalnet_jax.data.listing import list_images
from focalnet_jax.errors import UserError
from focalnet_jax.tasks import task_kind
from focalnet_jax.tasks.classification.classifier import Classifier, load_classifier
from focalnet_jax.tasks.predictor import Predictor

__all__ = ["Classifier", "find_pictures", "load_classifier", "load_predictor", "read_picture"]


def load_predictor(path: str | Path, name: str | None = None, **options: Any) -> Predictor:
    """Returns a predictor with the weights at `path`, in any format.

    The task is the task of the run that wrote the checkpoint. In other formats, it is segmentation for a UPerNet and
    detection for a detector; other weights are loaded as a classifier.

    Args:
      path: path of the weights, see `load_model`.
      name: name of the variant; recognised by default.
      **options: options of the predictor, which depend on the task. For classification, see `load_classifier`.

    Raises:
      UserError: the weights cannot be read, or do not fit the options.
    """
    task = weights_task(path, options.get("which"))
    return task_kind(task).load_predictor(path, name, **options)


def find_pictures(paths: Sequence[str | Path], others: Sequence[str] = ()) -> list[Path]:
    """Returns the given files, and all images in the given folders, sorted by path within a folder.

    Prints the number of other files in a folder, by suffix, to stderr.

    Args:
      paths: files and folders.
      others: suffixes of files to return in addition to images.

    Raises:
      UserError: a path does not exist or is an address, or a folder holds no images.
    """
    found: list[Path] = []
    for given, path in ((str(path), Path(path)) for path in paths):
        if os.path.isdir(path):  # False for an invalid name, for which Path raises
            inside = list_images(path, (*IMAGE_SUFFIXES, *others))
            if not inside.images:
                raise UserError(f"{path} contains no images; {inside.all_counts}")
            if inside.left_out:
                print(f"{path}: left out {inside.left_out_counts}", file=sys.stderr)
            found += map(Path, inside.images)
        elif os.path.exists(path):
            found.append(path)
        elif os.path.islink(path):
            raise UserError(f"{path} is a link to {os.readlink(path)}, which does not exist")
        elif re.match(r"[a-z][a-z0-9+.-]+:/", given, re.IGNORECASE):
            raise UserError(f"{given}: images are read from local paths; copy them first, and give the copies")
        else:
            raise UserError(f"{path}: there is no such file or folder")
    return found


def read_picture(path: Path, name: str | None = None) -> np.ndarray:
    """Returns the image in a file as `[H, W, 3]` uint8.

    Args:
      path: the file.
      name: name of the file in messages, by default its path.

    Raises:
      UserError: the file is missing or cannot be decoded as an image.
    """
    try:
        return decode(path)
    except UnreadableImageError as error:
        raise UserError(f"{name or path} is not an image that can be read: {error}") from error
