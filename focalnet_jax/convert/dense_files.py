"""Reads what all models around a FocalNet have in common: the config of the backbone, class names and normalization."""

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
"""By item of a checkpoint with weights: the item with their running statistics."""
BACKBONE = "backbone."
"""Prefix of the backbone's tensors in a model."""
_FIRST = "backbone/patch_embed/proj/kernel"
# Options of the original's backbone that shapes do not determine. The original's code has no other values.
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
    """Returns the config of the backbone, the released variant (focal windows may differ) or None, and notes.

    Args:
      shapes: shapes of the model's tensors, those of the backbone with the prefix `BACKBONE`.
      table: key of `TABLES` for the names of the backbone's tensors.
      source: path of the file, for messages.
      given: options that do not come from the file.
      configured: options in an accompanying config.
      codebase: code base whose FocalNet is the original's, if the file comes from one.

    Raises:
      UserError: the backbone is not complete, not the variant that was given, or an option is unknown.
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
    """Returns the released variant that is equal to a backbone except for its focal windows, or None."""
    return next((name for name in list_models() if _is_variant(config, name)), None)


def _is_variant(config: FocalNetConfig, name: str) -> bool:
    return is_variant(config, name, {"focal_windows": config.focal_windows})


def check_given(step: AnyPath, config: FocalNetConfig, name: str | None, options: Mapping[str, bool]) -> None:
    """Raises `UserError` if the model in a checkpoint is not what the user named.

    Args:
      step: the checkpoint.
      config: config of its backbone.
      name: name of the variant that the user gave, or None.
      options: options of the backbone that the user gave.
    """
    if name is not None and not _is_variant(config, name):
        raise UserError(f"{step} contains {variant_of(config) or 'no released variant'}, not {name}: omit the name")
    for key, value in options.items():
        if getattr(config, key) != value:
            raise UserError(f"{key}={value} was given, but the checkpoint has {getattr(config, key)}: omit {key}")


def with_names(info: WeightsInfo, content: Tensors, classes: int) -> tuple[WeightsInfo, list[str], list[str]]:
    """Returns `info` with the class names and colours in a file, if it has none; notes; and warnings."""
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
    """Returns the info with the normalization in a config, parameters for inputs with red first, and notes."""
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
