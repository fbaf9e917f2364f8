"""A classifier as people use it: pictures from files in, names of classes out."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import jax
import numpy as np

from focalnet_jax.convert.load import model_of
from focalnet_jax.convert.weights import read_weights
from focalnet_jax.data.class_files import read_classes
from focalnet_jax.data.class_lists import labels, short_names
from focalnet_jax.data.decode import UnreadableImageError, decode
from focalnet_jax.data.formats import IMAGE_SUFFIXES
from focalnet_jax.data.listing import list_pictures
from focalnet_jax.data.normalization import normalize
from focalnet_jax.data.preprocessing import USUAL, Normalization, Preprocessing, sides
from focalnet_jax.data.transforms import EvalTransform, eval_transform
from focalnet_jax.errors import RunFailedError, UserError
from focalnet_jax.model import FocalNet
from focalnet_jax.model.compiled import compiled


@dataclass(frozen=True)
class Classifier:
    """A model, and what its weights say of pictures and classes.

    Any number of threads may call its methods at once. Results follow the parameters that the model has at the call.

    Attributes:
      model: with or without a classifier.
      labels: a name of each output.
      preprocessing: how pictures become the model's input; a size in pixels, or height and width, means the usual one
        of ImageNet for that size.
      assumed: what of it is ImageNet's usual one because the weights do not state it, in words; empty for nothing.
    """

    model: FocalNet
    labels: tuple[str, ...]
    preprocessing: Preprocessing = USUAL
    assumed: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.preprocessing, Preprocessing):
            object.__setattr__(self, "preprocessing", USUAL.at(sides(self.preprocessing)))

    @cached_property
    def transform(self) -> EvalTransform:
        """`[H, W, 3]` uint8 to `[h, w, 3]` uint8, as an evaluation does."""
        return eval_transform(self.preprocessing)

    def normalize(self, images: jax.Array) -> jax.Array:
        """Returns the model's input `[B, h, w, 3]` float32 of pictures uint8 that are resized and cropped."""
        return normalize(images, self.preprocessing.normalization)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Of each output, short and unlike all others: what figures and lines call it."""
        return tuple(short_names(self.labels))

    def logits(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """Returns `[B, K]` float32 of pictures `[H, W, 3]` uint8 of any sizes; of none, `[0, K]`."""
        if not len(pictures):
            return np.zeros((0, len(self.labels)), np.float32)
        images = np.stack([self.transform(picture) for picture in pictures])
        return np.asarray(_logits(self.model, images, self.preprocessing.normalization))

    def predict(self, pictures: Sequence[np.ndarray], topk: int = 5) -> list[list[tuple[str, float]]]:
        """Of each picture `[H, W, 3]` uint8 the most probable labels and their probabilities, the largest first."""
        return [
            [(self.labels[place], float(probability)) for place, probability in zip(*each, strict=True)]
            for each in zip(*self.best(pictures, topk), strict=True)
        ]

    def best(self, pictures: Sequence[np.ndarray], topk: int = 5) -> tuple[np.ndarray, np.ndarray]:
        """As `predict`, by their numbers: classes and probabilities `[B, min(topk, K)]`.

        Raises:
          RunFailedError: a logit is NaN or infinite, so that there is no most probable class.
        """
        logits = self.logits(pictures)
        if not np.isfinite(logits).all():
            raise RunFailedError("the logits are NaN or infinite, as those of a run that diverged: use other weights")
        probabilities = np.asarray(jax.nn.softmax(logits))
        classes = np.argsort(-probabilities, axis=-1, kind="stable")[:, :topk]
        return classes, np.take_along_axis(probabilities, classes, axis=-1)


@partial(compiled, static_argnums=(2,))
def _logits(model: FocalNet, images: jax.Array, normalization: Normalization) -> jax.Array:
    return model(normalize(images, normalization))


def load_classifier(
    path: str | Path,
    name: str | None = None,
    *,
    image_size: int | tuple[int, int] | None = None,
    dtype: str = "float32",
    options: Mapping[str, bool] | None = None,
    which: str | None = None,
    classes: str | Path | None = None,
) -> Classifier:
    """The model whose weights lie at `path`, in any format, and its labels and picture size where they are told.

    Args:
      path: as for `load_model`.
      name: the variant it is; recognised by default.
      image_size: another picture size, or height and width, than the weights state; 224 where they state none.
      dtype: precision policy.
      options: `use_postln` and `normalize_modulator`, where nothing in or beside the weights tells.
      which: which weights of a file with several, as for `read_weights`.
      classes: a file with what the outputs are called, see `read_classes`; by default what the weights state.

    Raises:
      UserError: nothing readable there, it is not what `name` says, or it states preprocessing that cannot be followed;
        `classes` are not as many as the outputs.

    Warns:
      UserWarning: one of several models was taken, or what is around a model decides what it computes.
    """
    weights = read_weights(path, name, options, which=which)
    for decision in weights.decisions:
        warnings.warn(f"{path}: {decision}", stacklevel=2)
    stated = weights.info
    how = stated.follow()
    outputs = weights.config.num_classes
    given = None if classes is None else read_classes(classes)
    if given is not None and len(given) != outputs:
        raise UserError(f"{classes} has {len(given)} classes; expected {outputs}, one for each output of {path}")
    names = labels(outputs, given or stated.words or stated.classes)
    assumed = "preprocessing" if how is None else "size, resize and crop" if stated.normalization_only else ""
    how = USUAL if how is None else how
    how = how if image_size is None else how.at(sides(image_size))
    return Classifier(model_of(weights, dtype), tuple(names), how, assumed)


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
