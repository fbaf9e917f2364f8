"""Opens the training examples of a config, and chooses values for the keys that the config leaves open."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from ml_collections import FrozenConfigDict

from focalnet_jax.convert.read_upernet import read_upernet
from focalnet_jax.convert.start import Start
from focalnet_jax.convert.start import read_start as read_start_of_focalnet
from focalnet_jax.convert.weights_task import weights_task
from focalnet_jax.tasks.dense import choose_by_classes
from focalnet_jax.tasks.segmentation.predictor import load_segmenter
from focalnet_jax.tasks.segmentation.sources import PairSource, open_segmentation_source
from focalnet_jax.tasks.segmentation.task import Segmentation

_CROP = 512  # pixels per side of a crop in the original


def open_examples(config: FrozenConfigDict) -> PairSource:
    """Returns the images with masks to train on."""
    return open_segmentation_source(config.data, config.data.train_split)


def choose(config: FrozenConfigDict, start: Start | None, source: PairSource | None) -> dict[str, Any]:
    """Returns values for `model.num_classes` and `init_head`, see `choose_by_classes`.

    The arguments are described in `Kind.choose`.
    """
    return choose_by_classes(config, start, None if source is None else source.class_names)


def evaluated_config(config: FrozenConfigDict, stored: Mapping[str, Any], named: Collection[str]) -> FrozenConfigDict:
    """Returns the config unchanged, because no key makes an evaluation include training images."""
    return config


def read_start(
    path: str,
    which: str | None,
    head: str,
    name: str | None,
    options: Mapping[str, bool],
    assumed: Mapping[str, bool] | None,
) -> Start:
    """Returns the architecture, crop size and class names stored with weights of segmentation or classification.

    For weights of classification, the result has no class names, and the crop size of the original.
    """
    if weights_task(path, which) != "segmentation":
        start = read_start_of_focalnet(path, which, "drop", name, options, assumed)
        return replace(start, image_size=_CROP, classes=None)
    weights = read_upernet(path, name, options, assumed, which=which, flag="--config.model.")
    how = weights.info.preprocessing
    size = (_CROP, _CROP) if how is None or weights.info.normalization_only else how.size
    return Start(weights.name, weights.config, size[0] if size[0] == size[1] else size, weights.info.classes)


make_task = Segmentation.of
load_predictor = load_segmenter
