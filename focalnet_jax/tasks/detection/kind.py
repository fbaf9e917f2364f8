"""Opens the training examples of a config, and chooses values for the keys that the config leaves open."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from ml_collections import FrozenConfigDict

from focalnet_jax.config import is_auto
from focalnet_jax.convert.load_detector import is_detector, read_detector_start
from focalnet_jax.convert.start import Start
from focalnet_jax.convert.start import read_start as read_start_of_focalnet
from focalnet_jax.data.class_words import keys_of
from focalnet_jax.tasks.detection.predictor import load_predictor as load_predictor
from focalnet_jax.tasks.detection.sources import DetectionSource, open_detection_source
from focalnet_jax.tasks.detection.task import Detection

_CANVAS = (800, 1344)  # height and width in pixels that hold the images of the original


def open_examples(config: FrozenConfigDict) -> DetectionSource:
    """Returns the images with objects to train on."""
    return open_detection_source(config.data, config.data.train_split, training=True)


def choose(config: FrozenConfigDict, start: Start | None, source: DetectionSource | None) -> dict[str, Any]:
    """Returns values for `model.num_classes` and `init_head`, if the config leaves them open.

    `init_head` is "keep" if the weights have the classes of the data in any order, else "drop".

    The arguments are described in `Kind.choose`.
    """
    chosen: dict[str, Any] = {}
    if source is not None:
        names = source.class_names
        same = start is None or {*map(_key, start.classes or ())} == {*map(_key, names)}
        chosen = {"model.num_classes": len(names), "init_head": "keep" if same else "drop"}
    elif start is not None:
        chosen = {"model.num_classes": start.model.num_classes}
    return {key: value for key, value in chosen.items() if is_auto(config, key)}


def evaluated_config(config: FrozenConfigDict, stored: Mapping[str, Any], named: Collection[str]) -> FrozenConfigDict:
    """Returns the config: no key selects images that a run was trained on."""
    return config


def _key(name: str) -> str:
    return " ".join(sorted(keys_of(name)))


def read_start(
    path: str,
    which: str | None,
    head: str,
    name: str | None,
    options: Mapping[str, bool],
    assumed: Mapping[str, bool] | None,
) -> Start:
    """Returns the architecture, canvas and class names stored with weights of detection or classification.

    Weights of classification have no classes here, and the size of their images is not used.
    """
    if is_detector(path, which):
        return read_detector_start(path, which, _CANVAS)
    start = read_start_of_focalnet(path, which, "drop", name, options, assumed)
    return replace(start, image_size=_CANVAS, classes=None)


make_task = Detection.of
