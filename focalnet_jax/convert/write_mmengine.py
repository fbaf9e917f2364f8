"""Writes files for mmsegmentation and mmdetection, in the layout of mmcv and mmengine."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from focalnet_jax.convert.files import METADATA, write_tensors
from focalnet_jax.convert.info import WeightsInfo
from focalnet_jax.convert.torch_files import import_torch, to_torch
from focalnet_jax.convert.weights import Weights
from focalnet_jax.convert.write import cast
from focalnet_jax.data.preprocessing import USUAL
from focalnet_jax.errors import UserError

INSTEAD = "use --to orbax, which this package reads, or --head drop --to microsoft|timm for the backbone alone"
"""Advice for models that a code base cannot load."""
_ONLY_PRENORM = ("use_postln", "use_postln_in_modulation", "normalize_modulator")


def check_prenorm(weights: Weights, codebase: str) -> None:
    """Raises `UserError` if the backbone has an option that the original's FocalNet for a code base lacks."""
    if unknown := [name for name in _ONLY_PRENORM if getattr(weights.config, name)]:
        raise UserError(
            f"the original's FocalNet for {codebase} has no {unknown[0]}, which {weights.name or 'this model'} "
            f"has, so {codebase} could not load the file: {INSTEAD}"
        )


def cast_all(tensors: Iterable[tuple[str, np.ndarray]], dtype: str) -> dict[str, np.ndarray]:
    """Returns tensors by name in the dtype `dtype`, except for counters, which remain int64."""
    return {name: array if array.dtype == np.int64 else cast(name, array, dtype) for name, array in tensors}


def write_model(
    path: Path, tensors: Mapping[str, np.ndarray], info: WeightsInfo, metadata: Mapping[str, str] | None = None
) -> None:
    """Writes a torch file with `meta` and `state_dict`, or a safetensors file with the same tensors.

    Args:
      path: the output file, whose suffix selects the format.
      tensors: arrays by name.
      info: class names, colours and normalization. A torch file has only the names and colours.
      metadata: further strings by key, for `.safetensors` only.

    Raises:
      OSError: the disk is full or the file cannot be written.
      UserError: a torch file is requested and torch is not installed.
    """
    if path.suffix == ".safetensors":
        write_tensors(path, dict(tensors), nested=False, metadata={**info_metadata(info), **(metadata or {})})
        return
    torch = import_torch(path)
    state = {name: to_torch(torch, array) for name, array in tensors.items()}
    try:
        torch.save({"meta": _meta(info), "state_dict": state}, path)
    except RuntimeError as error:  # torch raises it if the disk is full
        raise OSError(str(error).splitlines()[0]) from error


def info_metadata(info: WeightsInfo) -> dict[str, str]:
    """Returns the metadata of a safetensors file with class names and preprocessing; {} if both are unknown."""
    return {} if info == WeightsInfo() else {METADATA: json.dumps(info.to_dict())}


def _meta(info: WeightsInfo) -> dict[str, Any]:
    """Returns the entry `meta` of a torch file: class names and palette, under the keys of mmcv and of mmengine.

    Returns {} if there are no class names.
    """
    if not info.classes:
        return {}
    old: dict[str, Any] = {"CLASSES": tuple(info.classes)}
    if info.palette:
        old["PALETTE"] = [list(colour) for colour in info.palette]
    return old | {"dataset_meta": {key.lower(): value for key, value in old.items()}}


def normalization_notes(info: WeightsInfo, codebase: str) -> Iterator[str]:
    """Yields a note on the normalization of images if it is not ImageNet's."""
    how = info.preprocessing
    if how is not None and how.normalization != USUAL.normalization:
        parts = how.normalization.mean, how.normalization.std
        mean, std = ([round(255 * each, 6) for each in part] for part in parts)
        yield f"in {codebase}, normalize images with mean={mean}, std={std}, bgr_to_rgb=True"


def only_pth(codebase: str) -> str:
    """Returns the note that a code base cannot read a safetensors file."""
    return f"{codebase} reads only .pth files; load this file with safetensors.torch.load_file"
