"""Reads the config of the run that wrote weights, for the predictors of segmentation and detection."""

from __future__ import annotations

from pathlib import Path

from ml_collections import ConfigDict, FrozenConfigDict

from focalnet_jax.checkpoint.steps import read_metadata
from focalnet_jax.config import default_config, flatten, replaced
from focalnet_jax.convert.opened import Step, open_weights


def run_config(task: str, path: str | Path, which: str | None) -> FrozenConfigDict:
    """Returns the config of the run that wrote the weights at `path`.

    Keys that the stored config lacks have their defaults. If the weights are not from a run, this applies to all keys.

    Args:
      task: name of the task.
      path: path of the weights.
      which: selection among several weights in the file.
    """
    default = default_config(task)
    opened = open_weights(path, which)
    stored = read_metadata(opened.path).get("config", {}) if isinstance(opened, Step) else {}
    known, values = flatten(default), flatten(ConfigDict(dict(stored)))
    return replaced(default, {key: value for key, value in values.items() if key in known})


def fitted_box(size: int | tuple[int, int], box: tuple[int, int]) -> tuple[int, int]:
    """Returns the long and the short side of a box of the given size.

    Args:
      size: height and width in pixels, in either order; or only the shorter side, so that the longer side follows from
        the aspect ratio of `box`.
      box: long and short side of the box with this aspect ratio.
    """
    if isinstance(size, int):
        return max(box) * size // min(box), size
    return max(size), min(size)
