"""A classifier as people use it: pictures from files in, names of classes out."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import jax
import numpy as np

from focalnet_jax.convert.load import model_of
from focalnet_jax.convert.weights import read_weights
from focalnet_jax.data.class_lists import labels, short_names
from focalnet_jax.data.decode import UnreadableImageError, decode
from focalnet_jax.data.formats import IMAGE_SUFFIXES
from focalnet_jax.data.listing import list_pictures
from focalnet_jax.data.mixing import normalize
from focalnet_jax.data.transforms import EvalTransform, eval_transform
from focalnet_jax.errors import UserError
from focalnet_jax.model import FocalNet
from focalnet_jax.model.compiled import compiled


@dataclass(frozen=True)
class Classifier:
    """A model, and what its weights say of pictures and classes.

    Any number of threads may call its methods at once. Results follow the parameters that the model has at the call.

    Attributes:
      model: with or without a classifier.
      labels: a name of each output.
      image_size: pixels of the pictures it was trained or evaluated with.
      resized: of the shorter side before the crop.
    """

    model: FocalNet
    labels: tuple[str, ...]
    image_size: int
    resized: int | None

    @cached_property
    def transform(self) -> EvalTransform:
        """`[H, W, 3]` uint8 to `[S, S, 3]` uint8, as an evaluation does."""
        return eval_transform(self.image_size, self.resized)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Of each output, short and unlike all others: what figures and lines call it."""
        return tuple(short_names(self.labels))

    def logits(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """`[B, K]` float32 of pictures `[H, W, 3]` uint8 of any sizes."""
        images = np.stack([self.transform(picture) for picture in pictures])
        return np.asarray(_logits(self.model, images))

    def predict(self, pictures: Sequence[np.ndarray], topk: int = 5) -> list[list[tuple[str, float]]]:
        """Of each picture `[H, W, 3]` uint8 the most probable labels and their probabilities, the largest first."""
        return [
            [(self.labels[place], float(probability)) for place, probability in zip(*each, strict=True)]
            for each in zip(*self.best(pictures, topk), strict=True)
        ]

    def best(self, pictures: Sequence[np.ndarray], topk: int = 5) -> tuple[np.ndarray, np.ndarray]:
        """As `predict`, by their numbers: classes and probabilities `[B, min(topk, K)]`."""
        probabilities = np.asarray(jax.nn.softmax(self.logits(pictures)))
        classes = np.argsort(-probabilities, axis=-1, kind="stable")[:, :topk]
        return classes, np.take_along_axis(probabilities, classes, axis=-1)


@compiled
def _logits(model: FocalNet, images: jax.Array) -> jax.Array:
    return model(normalize(images))


def load_classifier(
    path: str | Path,
    name: str | None = None,
    *,
    image_size: int | None = None,
    dtype: str = "float32",
    options: Mapping[str, bool] | None = None,
    which: str | None = None,
) -> Classifier:
    """The model whose weights lie at `path`, in any format, and its labels and picture size where they are told.

    Args:
      path: as for `load_model`.
      name: the variant it is; recognised by default.
      image_size: another picture size than the weights say; 224 where they say none.
      dtype: precision policy.
      options: `use_postln` and `normalize_modulator`, where nothing in or beside the weights tells.
      which: which weights of a file with several, as for `read_weights`.

    Raises:
      UserError: nothing readable there, or it is not what `name` says.

    Warns:
      UserWarning: one of several models in the file was taken.
    """
    weights = read_weights(path, name, options, which=which)
    for decision in weights.decisions:
        warnings.warn(f"{path}: {decision}", stacklevel=2)
    stated = weights.stated
    resized = None
    if image_size is None and stated.preprocessor is not None:
        resized = stated.preprocessor.get("size", {}).get("shortest_edge")
    names = labels(weights.config.num_classes, stated.classes)
    size = stated.image_size or 224 if image_size is None else image_size
    return Classifier(model_of(weights, dtype), tuple(names), size, resized)


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
