"""Opens the training examples of a config, and chooses values for the keys that the config leaves open."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from ml_collections import FrozenConfigDict

from focalnet_jax.config import is_auto
from focalnet_jax.convert.start import Start
from focalnet_jax.tasks.segmentation.predictor import load_segmenter
from focalnet_jax.tasks.segmentation.sources import PairSource, open_segmentation_source
from focalnet_jax.tasks.segmentation.task import Segmentation


def open_examples(config: FrozenConfigDict) -> PairSource:
    """Returns the images with masks to train on."""
    return open_segmentation_source(config.data, config.data.train_split)


def choose(config: FrozenConfigDict, start: Start | None, source: PairSource | None) -> dict[str, Any]:
    """Returns values for `model.num_classes` and `init_head`, if the config leaves them open.

    The arguments are described in `Kind.choose`.
    """
    chosen: dict[str, Any] = {}
    if source is not None:
        chosen = {"model.num_classes": len(source.class_names), "init_head": "drop" if start else "keep"}
    elif start is not None:
        chosen = {"model.num_classes": start.model.num_classes}
    return {key: value for key, value in chosen.items() if is_auto(config, key)}


def evaluated_config(config: FrozenConfigDict, stored: Mapping[str, Any], named: Collection[str]) -> FrozenConfigDict:
    """Returns the config: no key selects images that a run was trained on."""
    return config


make_task = Segmentation.of
load_predictor = load_segmenter
