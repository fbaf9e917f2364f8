"""Opens the training examples of a config, and chooses values for the keys that the config leaves open."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ml_collections import FrozenConfigDict

from focalnet_jax.config import is_auto, replaced
from focalnet_jax.convert.start import Start, read_start
from focalnet_jax.data.class_files import read_classes
from focalnet_jax.data.decode import UnreadableImageError
from focalnet_jax.data.held_out import open_split
from focalnet_jax.data.labels import Classes, match_classes
from focalnet_jax.data.source import Source, check_examples
from focalnet_jax.distributed.startup import warn
from focalnet_jax.errors import UserError
from focalnet_jax.tasks.classification.classifier import load_classifier
from focalnet_jax.tasks.classification.task import Classification


def open_examples(config: FrozenConfigDict) -> Source:
    """Returns the examples to train on.

    Raises:
      UserError: the examples cannot be opened, a class folder has no images, or the first example has several labels.
    """
    source = open_split(config.data, config.data.train_split)
    check_examples(source)
    with contextlib.suppress(UnreadableImageError):  # the loader replaces unreadable images
        if source[0][1].ndim:
            raise UserError(
                f"{source.name(0)} has several labels; expected one label per training image: use such data only for "
                "data.eval_split"
            )
    return source


def choose(config: FrozenConfigDict, start: Start | None, source: Source | None) -> dict[str, Any]:
    """Returns values for `model.num_classes` and `init_head`, if the config leaves them open.

    `init_head` is "drop" if there are weights whose classifier does not have the classes of the data, else "keep".

    Args:
      config: config of a run or of an evaluation.
      start: architecture, input size and classes stored with the initial or evaluated weights, or None without weights.
      source: training examples; None for an evaluation, in which the weights define the classes.
    """
    chosen: dict[str, Any] = {}
    if source is not None:
        names = source.class_names if config.data.classes is None else read_classes(config.data.classes)
        chosen = {
            "model.num_classes": len(names),
            "init_head": "drop" if start and not _has_classes(start, names) else "keep",
        }
    elif start is not None:
        chosen = {"model.num_classes": start.model.num_classes}
    return {key: value for key, value in chosen.items() if is_auto(config, key)}


def _has_classes(start: Start, names: Sequence[str]) -> bool:
    """Returns whether the weights and the data have the same classes. `data.labels` defines which names are equal."""
    if start.classes is None or len(start.classes) != len(names):
        return False
    theirs = Classes(start.classes, "the weights")
    try:
        matching = match_classes(
            names, theirs, outputs=len(names), data="the data", classifier="the weights", numbers=False
        )
    except UserError:
        return False
    return len(set(matching.outputs.tolist()) - {-1}) == len(names)


def evaluated_config(config: FrozenConfigDict, stored: Mapping[str, Any], named: Collection[str]) -> FrozenConfigDict:
    """Returns the config with the held-out fraction of the run, if both hold out images.

    A fraction set on the command line is kept. If it is larger, the evaluation may include training images of the run,
    and a warning is printed. The arguments are described in `Kind.evaluated_config`.
    """
    share, asked = stored.get("data", {}).get("held_out", 0.0), config.data.held_out
    if not share or not asked or share == asked:
        return config
    if "data.held_out" not in named:
        return replaced(config, {"data.held_out": share})
    if asked > share:
        warn(
            f"data.held_out={asked} is larger than the run's data.held_out={share}: some of the evaluated images may "
            "be training images of the run"
        )
    return config


__all__ = ["choose", "evaluated_config", "load_predictor", "make_task", "open_examples", "read_start"]

make_task = Classification.of
load_predictor = load_classifier
