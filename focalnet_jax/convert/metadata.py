"""Finds class names and preprocessing in files next to the weights, and in metadata and layers of the weights file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from focalnet_jax.convert.class_names import class_names_of
from focalnet_jax.convert.files import HEADS, METADATA, OPTIONS, read_json, read_metadata_of
from focalnet_jax.convert.huggingface import CONFIG, transformers_info
from focalnet_jax.convert.info import WeightsInfo, info_from_dict, with_exact_crop
from focalnet_jax.convert.normalizers import FoundNormalization
from focalnet_jax.convert.recognise import NOT_FROM_SHAPES
from focalnet_jax.convert.timm import is_timms, timm_info
from focalnet_jax.data.preprocessing import USUAL, Normalization, normalization_in_words
from focalnet_jax.errors import UserError
from focalnet_jax.model import FocalNetConfig

_IDENTITY = Normalization((0.0,) * 3, (1.0,) * 3)


def read_info(path: Path, folder: Path, format: str, num_classes: int) -> WeightsInfo:
    """Returns the class names and preprocessing of the weights at `path`.

    Files in `folder` have precedence. The metadata that this package stores in a weights file is used for class names
    or preprocessing that these files lack.

    Args:
      path: the weights file, the index of its shards, or a directory.
      folder: the folder with the accompanying config files.
      format: format of the weights, a key of `TABLES`.
      num_classes: number of outputs of the classifier.

    Raises:
      UserError: class names or input size are invalid or do not fit the classifier, or the metadata is damaged.
    """
    info = _info_in_folder(folder, format, num_classes)
    own = own_info(path, num_classes)
    if own is None:
        return info
    return own if info == WeightsInfo() else _completed(info, own)


def options_in(path: Path) -> dict[str, bool]:
    """Returns the model options that this package stores in the metadata of a `.safetensors` file; {} without them.

    Raises:
      UserError: the metadata is damaged.
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


def heads_in(path: Path) -> dict[str, Any]:
    """Returns the options of UPerNet's heads in the metadata that this package stores in a `.safetensors` file.

    Returns {} without this metadata.

    Raises:
      UserError: the metadata is damaged.
    """
    held = read_metadata_of(path).get(HEADS)
    try:
        return {} if held is None else {"pool_scales": tuple(map(int, json.loads(held)["pool_scales"]))}
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(f"{path}: its metadata {HEADS} is damaged; expected pool_scales, a list of numbers") from error


def own_info(path: Path, num_classes: int) -> WeightsInfo | None:
    """Returns the info that this package stores in the metadata of a `.safetensors` file, or None.

    Raises:
      UserError: the metadata is damaged or names more than `num_classes` classes.
    """
    held = read_metadata_of(path)
    if METADATA not in held:
        return None
    try:
        own = info_from_dict(json.loads(held[METADATA]), str(path))
        if len(own.classes or ()) > num_classes:  # outputs that no class uses have no names
            raise UserError(f"it names {len(own.classes)} classes; the classifier has {num_classes}")
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: its metadata {METADATA} is damaged: {error}") from error
    return own


def _info_in_folder(folder: Path, format: str, num_classes: int) -> WeightsInfo:
    if format == "huggingface" or not (folder / CONFIG).is_file():
        return transformers_info(folder, num_classes)
    config: Mapping[str, Any] = read_json(folder / CONFIG) if format == "timm" else {}
    if not is_timms(config) or config.get("num_classes", num_classes) != num_classes:
        return WeightsInfo()  # config.json is for a different model, such as that of a run in the same folder
    return timm_info(config, num_classes, str(folder / CONFIG))


def _completed(info: WeightsInfo, own: WeightsInfo) -> WeightsInfo:
    """Returns `info`, read from the folder's files, completed by `own`, read from the metadata of the weights file.

    The class names of `own` are used if the files have no class names. The preprocessing of `own` is used if the files
    specify at most an input size. Otherwise, only the rounding of crops, which the files cannot express, is from `own`.
    """
    if info.classes is None:
        info = replace(info, classes=own.classes, exact=own.exact, words=own.words)
    if info.preprocessor is not None or info.refused or (info.preprocessing and not info.image_size):
        return with_exact_crop(info, own.preprocessing)
    how = own.preprocessing
    if how is not None and info.image_size is not None:
        how = how.at(info.image_size)
    return replace(
        info,
        preprocessing=how or info.preprocessing,
        normalization_only=own.normalization_only and info.image_size is None,
        refused=own.refused,
        preprocessor=own.preprocessor if how == own.preprocessing else None,
    )


def with_class_names(
    info: WeightsInfo, lists: Mapping[str, tuple[str, ...]], config: FocalNetConfig
) -> tuple[WeightsInfo, list[str], list[str]]:
    """Adds the class names that trainers store in a weights file, if `info` has no class names.

    Args:
      info: class names and preprocessing from accompanying files and from this package's metadata.
      lists: lists of names in the weights file, by the name of their entry.
      config: the model's config.

    Returns:
      The completed info, notes for the user, and warnings for the user.
    """
    names, note = class_names_of(lists, config.num_classes) if config.num_classes else (None, "")
    if names is None or names == info.classes:
        return info, [], []
    if info.classes is not None:
        return info, [], [f"the class names in accompanying files are used; the file itself has others ({note})"]
    info = replace(info, classes=names)
    return (info, [note], []) if names else (info, [], [note])


def with_layer(info: WeightsInfo, layer: FoundNormalization | None) -> tuple[WeightsInfo, list[str]]:
    """Returns `info` with the normalization by a layer in the weights file, and notes for the user.

    If the layer's normalization is unclear, or accompanying files specify a different one, the result has no
    preprocessing, and `refused` has the reason.
    """
    if layer is None:
        return info, []
    names = " and ".join(layer.names[:2])
    if layer.normalization is None:
        return replace(info, preprocessing=None, preprocessor=None, refused=layer.refused), [layer.refused]
    inner, outer = layer.normalization, info.preprocessing
    note = f"the file normalizes images with {names}: {normalization_in_words(inner)}"
    if info.refused:
        return info, [note]
    if outer is None or (info.preprocessor is None and info.image_size is not None):  # files specify at most a size
        how = replace(outer or USUAL, normalization=inner)
        return replace(info, preprocessing=how, normalization_only=outer is None), [note]
    if outer.normalization == _IDENTITY:
        return replace(info, preprocessing=replace(outer, normalization=inner), preprocessor=None), [note]
    if outer.normalization == inner:
        return info, [f"{note}; accompanying files specify the same, so it is applied once"]
    refused = (
        f"the file normalizes images with {names} ({normalization_in_words(inner)}), but accompanying files give "
        f"{normalization_in_words(outer.normalization)}: the model's input is ambiguous; remove or correct one of them"
    )
    return replace(info, preprocessing=None, preprocessor=None, refused=refused), [refused]
