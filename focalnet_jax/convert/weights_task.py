"""Recognises the task of weights: detection for a detector, segmentation for a UPerNet, otherwise classification."""

from __future__ import annotations

from pathlib import Path

from focalnet_jax.checkpoint.steps import read_metadata
from focalnet_jax.convert.checkpoint_metadata import reading_metadata
from focalnet_jax.convert.detectors import TASK
from focalnet_jax.convert.opened import Step, open_weights
from focalnet_jax.convert.read_upernet import UPERNET_SIGN, upernet_root
from focalnet_jax.convert.recognise_detector import find_detector, may_be_detector
from focalnet_jax.convert.select import choose
from focalnet_jax.settings.tasks import TASKS, stored_task


def weights_task(path: str | Path, which: str | None = None) -> str:
    """Returns the task of the weights at `path`: "detection", "segmentation" or "classification".

    For a checkpoint of this package, this is the task in its metadata. Arguments and errors are as in `read_weights`.
    """
    opened = open_weights(path, which)
    if isinstance(opened, Step):
        with reading_metadata(opened.path):
            return stored_task(read_metadata(opened.path))
    names = [*opened.content]
    if not may_be_detector(names) and not any(name.endswith(UPERNET_SIGN) for name in names):
        return TASKS[0]
    tensors, chosen, _, _ = choose(opened.content, str(opened.path), opened.which)
    if upernet_root(chosen, tensors) is not None:
        return "segmentation"
    return TASKS[0] if find_detector(chosen, tensors) is None else TASK
