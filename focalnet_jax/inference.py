"""From weights to predictions for images, for any task."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from focalnet_jax.checkpoint.steps import find_checkpoint, read_metadata
from focalnet_jax.convert.files import is_checkpoint
from focalnet_jax.data.decode import UnreadableImageError, decode
from focalnet_jax.data.formats import IMAGE_SUFFIXES
from focalnet_jax.data.listing import list_pictures
from focalnet_jax.errors import UserError
from focalnet_jax.settings.tasks import TASKS
from focalnet_jax.tasks import task_kind
from focalnet_jax.tasks.classification.classifier import Classifier, load_classifier
from focalnet_jax.tasks.task import Predictor

__all__ = ["Classifier", "find_pictures", "load_classifier", "load_predictor", "read_picture"]


def load_predictor(path: str | Path, name: str | None = None, **options: Any) -> Predictor:
    """Returns the predictor of the weights at `path`, in any format.

    The checkpoint of a run has the run's task; other weights are those of a classifier.

    Args:
      path: as for `load_model`.
      name: the variant it is; recognised by default.
      **options: of the task, for classification those of `load_classifier`.

    Raises:
      UserError: nothing readable is there, or it does not fit the options.
    """
    task = TASKS[0]
    if is_checkpoint(path):
        task = (read_metadata(find_checkpoint(path)).get("config") or {}).get("task", task)
    return task_kind(task).load_predictor(path, name, **options)


def find_pictures(paths: Sequence[str | Path], others: Sequence[str] = ()) -> list[Path]:
    """Returns the named files, and the pictures in named folders, sorted: files with a picture's suffix or `others`.

    What is left out of a folder is printed on stderr, by kind and number.

    Raises:
      UserError: nothing there, or a folder without pictures.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if os.path.isdir(path):  # False for a name that cannot be one, where Path raises
            inside = list_pictures(path, (*IMAGE_SUFFIXES, *others))
            if not inside.pictures:
                raise UserError(f"{path} holds no pictures; {inside.held}")
            if inside.left_out:
                print(f"{path}: left out {inside.told}", file=sys.stderr)
            found += map(Path, inside.pictures)
        elif os.path.exists(path):
            found.append(path)
        elif os.path.islink(path):
            raise UserError(f"{path} is a link to {os.readlink(path)}, which is not there")
        else:
            raise UserError(f"{path}: there is no such file or folder")
    return found


def read_picture(path: Path, name: str | None = None) -> np.ndarray:
    """`[H, W, 3]` uint8; `UserError` that names a file that is none, by its path or the `name` people know it by."""
    try:
        return decode(path)
    except UnreadableImageError as error:
        raise UserError(f"{name or path} is no picture that can be read: {error}") from error
