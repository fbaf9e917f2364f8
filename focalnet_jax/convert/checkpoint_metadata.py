"""Reads the metadata of checkpoints of this package: class names, preprocessing, and the item with the weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from focalnet_jax.checkpoint.weights import weights_item
from focalnet_jax.convert.class_names import palette_at
from focalnet_jax.convert.info import WeightsInfo, info_from_dict
from focalnet_jax.data.preprocessing import from_config
from focalnet_jax.errors import RunFailedError, UserError


def check_which(step: Path, which: str | None) -> None:
    """Raises `UserError` if a checkpoint of this package does not contain the weights that `which` selects."""
    if which not in (None, weights_item(step)):
        raise UserError(
            f"--weights {which}: {step} has only the item {weights_item(step)}; omit the flag, which is for PyTorch "
            "files"
        )


@contextmanager
def reading_metadata(step: Path) -> Iterator[None]:
    """Context manager that converts errors of reading a checkpoint to `UserError` with the path of the checkpoint."""
    try:
        yield
    except (RunFailedError, AttributeError, KeyError, TypeError, ValueError) as error:
        text = str(error)
        raise UserError(text if str(step) in text else f"{step} cannot be read: {text}") from error


def checkpoint_info(metadata: Mapping[str, Any]) -> WeightsInfo:
    """Returns the class names and preprocessing in the metadata of a checkpoint.

    A converted checkpoint stores what its source specified. The checkpoint of a run stores class names and the config.

    Raises:
      UserError: the metadata is damaged.
    """
    if "stated" in metadata:
        try:
            return info_from_dict(metadata["stated"], "the checkpoint's preprocessor")
        except UserError as error:
            raise UserError(f"the checkpoint's metadata is damaged: {error}") from error
    config = metadata.get("config", {})
    data = config.get("data", {})
    box = config.get("inference", {}).get("box") or config.get("augment", {}).get("box")
    classes = metadata.get("classes")  # a task may store a value of another type under this key
    return WeightsInfo(
        tuple(classes) if isinstance(classes, list) else None,
        exact=True,
        preprocessing=from_config(data) if "image_size" in data else None,
        palette=palette_at("palette", metadata.get("palette")),
        box=None if box is None else tuple(box),
    )
