"""What is known of pictures and classes: from files beside weights, from metadata and layers in their file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from focalnet_jax.convert.files import METADATA, OPTIONS, read_json, read_metadata_of
from focalnet_jax.convert.huggingface import CONFIG, WeightsInfo, stated_beside, stated_from
from focalnet_jax.convert.normalizers import FoundNormalization
from focalnet_jax.convert.recognise import NOT_FROM_SHAPES
from focalnet_jax.convert.timm import is_timms, stated_by_timm
from focalnet_jax.data.preprocessing import USUAL, Normalization, normalization_in_words
from focalnet_jax.errors import UserError

_IDENTITY = Normalization((0.0,) * 3, (1.0,) * 3)


def stated_of(path: Path, folder: Path, format: str, num_classes: int) -> WeightsInfo:
    """Returns what files in `folder` say about weights at `path`; what they do not say, the metadata of the file.

    Raises:
      UserError: class names or input size make no sense or are not those of the classifier; damaged metadata.
    """
    stated = _beside(folder, format, num_classes)
    held = read_metadata_of(path)
    if METADATA not in held:
        return stated
    try:
        own = stated_from(json.loads(held[METADATA]), str(path))
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: its metadata {METADATA} is damaged: {error}") from error
    return own if stated == WeightsInfo() else _completed(stated, own)


def options_in(path: Path) -> dict[str, bool]:
    """Returns the options of the model that the metadata of a `.safetensors` of this package states.

    Raises:
      UserError: they are damaged.
    """
    held = read_metadata_of(path).get(OPTIONS)
    try:
        options = {} if held is None else dict(json.loads(held))
    except (ValueError, TypeError, RecursionError):
        options = {"": None}
    if any(key not in NOT_FROM_SHAPES or type(value) is not bool for key, value in options.items()):
        expected = "true or false for " + " and ".join(NOT_FROM_SHAPES)
        raise UserError(f"{path}: its metadata {OPTIONS} is damaged; expected {expected}")
    return options


def _beside(folder: Path, format: str, num_classes: int) -> WeightsInfo:
    if format == "huggingface" or not (folder / CONFIG).is_file():
        return stated_beside(folder, num_classes)
    config: Mapping[str, Any] = read_json(folder / CONFIG) if format == "timm" else {}
    if not is_timms(config) or config.get("num_classes", num_classes) != num_classes:
        return WeightsInfo()  # of something else, such as the run whose folder this is
    return stated_by_timm(config, num_classes, str(folder / CONFIG))


def _completed(stated: WeightsInfo, own: WeightsInfo) -> WeightsInfo:
    """What files beside the weights say, with the preprocessing of the metadata where they state a size at most."""
    if stated.preprocessor is not None or stated.refused or (stated.preprocessing and not stated.image_size):
        return stated
    how = own.preprocessing
    if how is not None and stated.image_size is not None:
        how = how.at(stated.image_size)
    return replace(
        stated,
        preprocessing=how or stated.preprocessing,
        normalization_only=own.normalization_only and stated.image_size is None,
        refused=own.refused,
        preprocessor=own.preprocessor if how == own.preprocessing else None,
    )


def with_layer(stated: WeightsInfo, layer: FoundNormalization | None) -> tuple[WeightsInfo, list[str]]:
    """Returns what is stated, with a normalization that a layer in the file does, and what a reader should know.

    Where files beside the weights normalize too, otherwise than the layer, it is not clear what the model was given.
    """
    if layer is None:
        return stated, []
    names = " and ".join(layer.names[:2])
    if layer.normalization is None:
        return replace(stated, preprocessing=None, preprocessor=None, refused=layer.refused), [layer.refused]
    inner, outer = layer.normalization, stated.preprocessing
    told = f"the file normalizes pictures by {names}: {normalization_in_words(inner)}"
    if stated.refused:
        return stated, [told]
    if outer is None or (stated.preprocessor is None and stated.image_size is not None):  # a size at most
        how = replace(outer or USUAL, normalization=inner)
        return replace(stated, preprocessing=how, normalization_only=outer is None), [told]
    if outer.normalization == _IDENTITY:
        return replace(stated, preprocessing=replace(outer, normalization=inner), preprocessor=None), [told]
    if outer.normalization == inner:
        return stated, [f"{told}; files beside it say the same, and it is done once"]
    refused = (
        f"the file normalizes pictures by {names}: {normalization_in_words(inner)}, files beside it by "
        f"{normalization_in_words(outer.normalization)}: it is not clear which pictures the model is given"
    )
    return replace(stated, preprocessing=None, preprocessor=None, refused=refused), [refused]
