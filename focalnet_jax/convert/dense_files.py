"""Reads the config of the backbone, class names and normalization from files of UPerNet and of detectors."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from focalnet_jax.convert.class_names import class_names_of, palette_of
from focalnet_jax.convert.info import WeightsInfo
from focalnet_jax.convert.mmseg_configs import ConfiguredNormalization
from focalnet_jax.convert.recognise import NOT_FROM_SHAPES, is_variant, recognise
from focalnet_jax.convert.tensors import Tensors
from focalnet_jax.data.preprocessing import from_config
from focalnet_jax.errors import UserError
from focalnet_jax.model import FocalNetConfig, list_models, variant_config
from focalnet_jax.parameters import named_leaves, with_leaves
from focalnet_jax.storage.address import AnyPath

STATISTICS = {"params": "statistics", "ema": "ema_statistics"}
"""Item of a checkpoint with the running statistics, by the item with the parameters."""
BACKBONE = "backbone."
"""Prefix of the backbone's tensors in a model."""
_FIRST = "backbone/patch_embed/proj/kernel"
# Options of the original's backbone that shapes do not determine. The original's code supports no other values.
_ORIGINAL = dict.fromkeys(NOT_FROM_SHAPES, False)


@dataclass(frozen=True)
class GivenOptions:
    """Options of the backbone that do not come from the file.

    Attributes:
      name: name of the variant that the user gave, whose focal windows may differ, or None.
      options: options that the user gave.
      assumed: options of the target model, or None.
      flag: flag with which the user gives an option, for messages.
    """

    name: str | None
    options: Mapping[str, bool]
    assumed: Mapping[str, bool] | None
    flag: str


def backbone_config(
    shapes: Mapping[str, tuple[int, ...]],
    table: str,
    source: str,
    given: GivenOptions,
    *,
    configured: Mapping[str, Any] | None = None,
    codebase: str | None = None,
) -> tuple[FocalNetConfig, str | None, list[str]]:
    """Returns the config of the backbone; the name of the released variant or None; and notes.

    The focal windows of the backbone may differ from those of the released variant.

    Args:
      shapes: shapes of the model's tensors, those of the backbone with the prefix `BACKBONE`.
      table: key of `TABLES` for the names of the backbone's tensors.
      source: path of the file, for messages.
      given: options that do not come from the file.
      configured: options in an accompanying config.
      codebase: name of the code base of the file if its FocalNet is the original's. The original's values are then used
        for options without another source, unless the patch embedding is overlapped.

    Raises:
      UserError: the backbone is not complete or not the variant that was given, or an option has no source.
    """
    backbone = {key.removeprefix(BACKBONE): shape for key, shape in shapes.items() if key.startswith(BACKBONE)}
    configured, known_source, assumed = configured or {}, "the target model", given.assumed
    overlapped = backbone.get("patch_embed.proj.weight", (0,))[-1:] == (7,)
    if given.name is not None:
        known_source = f"variant {given.name}"
        assumed = {key: getattr(variant_config(given.name), key) for key in NOT_FROM_SHAPES}
    elif assumed is None and codebase is not None and not overlapped:
        known_source, assumed = f"{codebase}'s FocalNet", _ORIGINAL
    found = recognise(
        backbone, format=table, configured=configured, overrides=given.options, assumed=assumed, flag=given.flag
    )
    known = variant_of(found.config)
    if given.name is not None and not _is_variant(found.config, given.name):
        raise UserError(f"{source}: these are not the weights of {given.name}, but of {known or 'no released variant'}")
    unshaped = ("drop_path_rate", "drop_rate", "layerscale_value")
    config = dataclasses.replace(found.config, **{key: configured[key] for key in unshaped if key in configured})
    sources = {
        key: known_source if found.sources[key] == "the target model" else found.sources[key] for key in _ORIGINAL
    }
    return config, given.name or known, [f"{key}={getattr(config, key)} from {sources[key]}" for key in sources]


def variant_of(config: FocalNetConfig) -> str | None:
    """Returns the name of the released variant that differs from a backbone at most in the focal windows, or None.

    The number of classes may differ, too.
    """
    return next((name for name in list_models() if _is_variant(config, name)), None)


def _is_variant(config: FocalNetConfig, name: str) -> bool:
    return is_variant(config, name, {"focal_windows": config.focal_windows})


def check_given(step: AnyPath, config: FocalNetConfig, name: str | None, options: Mapping[str, bool]) -> None:
    """Raises `UserError` if the model in a checkpoint is not the variant, or lacks the options, that the user gave.

    Args:
      step: the checkpoint.
      config: config of the backbone in the checkpoint.
      name: name of the variant that the user gave, or None.
      options: options of the backbone that the user gave.
    """
    if name is not None and not _is_variant(config, name):
        raise UserError(f"{step} contains {variant_of(config) or 'no released variant'}, not {name}: omit the name")
    for key, value in options.items():
        if getattr(config, key) != value:
            raise UserError(f"{key}={value} was given, but the checkpoint has {getattr(config, key)}: omit {key}")


def with_names(info: WeightsInfo, content: Tensors, classes: int) -> tuple[WeightsInfo, list[str], list[str]]:
    """Adds the class names and the palette in a file to an info, where the info lacks them.

    Returns:
      The info, notes for the user, and warnings for the user.
    """
    if info.palette is None:
        info = dataclasses.replace(info, palette=palette_of(content.palettes, classes))
    names, note = class_names_of(content.class_lists, classes)
    if names is None or info.classes is not None:
        return info, [], []
    info = dataclasses.replace(info, classes=names)
    return (info, [note], []) if names else (info, [], [note])


def with_normalization(
    info: WeightsInfo, params: Any, found: ConfiguredNormalization | None
) -> tuple[WeightsInfo, Any, list[str]]:
    """Adds the normalization in a config to an info without a preprocessing.

    Returns:
      The info; the parameters, with the input channels of the patch embedding reversed if the config has images with
      blue first; and notes for the user.
    """
    if found is None or info.preprocessing is not None:
        return info, params, []
    if found.normalization is None:
        return info, params, [f"{found.refused}, and images are normalized with ImageNet's mean and std"]
    data = {"mean": found.normalization.mean, "std": found.normalization.std, "image_size": 512}
    info = dataclasses.replace(info, preprocessing=from_config(data), normalization_only=True)
    if not found.blue_first:
        return info, params, []
    kernels = {_FIRST: np.flip(named_leaves(params)[_FIRST], 2)}
    note = "input channels of the patch embedding reversed: the file's config has images with blue first"
    return info, with_leaves(params, named_leaves(params) | kernels), [note]
