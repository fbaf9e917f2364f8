"""Opens the training examples of a config, and chooses values for the keys that the config leaves open."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from ml_collections import FrozenConfigDict

from focalnet_jax.convert.load_detector import is_detector, read_detector_start
from focalnet_jax.convert.start import Start
from focalnet_jax.convert.start import read_start as read_start_of_focalnet
from focalnet_jax.settings.detection import MASKS
from focalnet_jax.tasks.dense import choose_by_classes
from focalnet_jax.tasks.detection.predictor import load_predictor as load_predictor
from focalnet_jax.tasks.detection.sources import DetectionSource, open_detection_source
from focalnet_jax.tasks.detection.task import Detection

_CANVAS = (800, 1344)  # height and width in pixels that the images of the original recipes fit into


def open_examples(config: FrozenConfigDict) -> DetectionSource:
    """Returns the images with objects to train on."""
    return open_detection_source(config.data, config.data.train_split, training=True, masks=config.head.name in MASKS)


def choose(config: FrozenConfigDict, start: Start | None, source: DetectionSource | None) -> dict[str, Any]:
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
    """Returns the architecture, canvas and class names stored with weights of detection or classification.

    For weights of classification, the result has no class names, and the canvas of the original.
    """
    if is_detector(path, which):
        return read_detector_start(path, which, _CANVAS, name, options, assumed)
    start = read_start_of_focalnet(path, which, "drop", name, options, assumed)
    return replace(start, image_size=_CANVAS, classes=None)


make_task = Detection.of
