"""Converts preprocessing from and to the configs of transformers and timm."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from focalnet_jax.data.preprocessing import (
    CROP_PCT,
    FILTERS,
    Preprocessing,
    checked,
    is_finite_number,
    is_side,
    normalization,
)
from focalnet_jax.data.statistics import IMAGENET_MEAN, IMAGENET_STD
from focalnet_jax.errors import UserError

_CLIP = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "size": {"shortest_edge": 224},
    "crop_size": {"height": 224, "width": 224},
    "do_center_crop": True,
    "default_to_square": False,
}
_HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": {"height": 224, "width": 224}}
# Defaults of transformers' processors, in addition to _COMMON.
_PROCESSORS: dict[str, dict[str, Any]] = {
    "Bit": _CLIP,
    "CLIP": _CLIP,
    "ViT": _HALF | {"resample": 2},
    "DeiT": _HALF
    | {"size": {"height": 256, "width": 256}, "crop_size": {"height": 224, "width": 224}, "do_center_crop": True},
    "Beit": _HALF | {"crop_size": {"height": 224, "width": 224}},
    "Siglip": _HALF | {"default_to_square": False},
    "Pvt": _HALF | {"image_mean": list(IMAGENET_MEAN), "image_std": list(IMAGENET_STD)},
    "ConvNext": _HALF | {"size": {"shortest_edge": 384}, "default_to_square": False, "crop_pct": 224 / 256},
}
_COMMON = {
    "do_resize": True,
    "do_center_crop": False,
    "do_rescale": True,
    "do_normalize": True,
    "resample": 3,
    "rescale_factor": 1 / 255,
    "default_to_square": True,
}
_FOLLOWED = ("do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb")
# Switches that affect only segmentation targets or have no effect.
_NO_MATTER = ("do_reduce_labels", "do_convert_annotations")
_NAMES = {number: name for name, number in FILTERS.items()}


def from_transformers(stated: Mapping[str, Any], place: str) -> Preprocessing:
    """Returns the preprocessing that transformers' image processors do for a `preprocessor_config.json`.

    Args:
      stated: content of the file, or its entry `image_processor`.
      place: name of the file in error messages.

    Raises:
      UserError: a value is invalid or not supported. The message names its key.
    """
    stated = stated["image_processor"] if isinstance(stated.get("image_processor"), Mapping) else stated
    kind = stated.get("image_processor_type") or stated.get("feature_extractor_type") or "BitImageProcessor"
    name = str(kind)
    for ending in ("Fast", "Pil", "ImageProcessor", "FeatureExtractor"):
        name = name.removesuffix(ending)
    if name not in _PROCESSORS or name == kind:
        known = ", ".join(f"{each}ImageProcessor" for each in _PROCESSORS)
        raise UserError(f"{place}: image_processor_type is {str(kind)[:60]!r}; expected one of {known}")
    # As in transformers, a switch that is null is off, and any other key that is null has its default.
    given = {key: False if value is None else value for key, value in stated.items() if _is_stated(key, value)}
    values = _COMMON | _PROCESSORS[name] | given
    _refuse_unknown_steps(values, place)
    how = _geometry(values, place, crop_pct=name == "ConvNext")
    if type(values["resample"]) is not int or values["resample"] not in _NAMES:
        raise UserError(f"{place}: resample is {values['resample']!r}; expected 0 to 5, the number of a Pillow filter")
    factor = values["rescale_factor"] if values["do_rescale"] else 1.0
    if not is_finite_number(factor) or factor <= 0:
        raise UserError(f"{place}: rescale_factor is {factor!r}; expected a positive number such as 1/255")
    mean, std = (values["image_mean"], values["image_std"]) if values["do_normalize"] else (0.0, 1.0)
    colours = normalization(mean, std, f"{place}: image_", 255 * factor)
    how = dataclasses.replace(
        how, interpolation=_NAMES[values["resample"]], normalization=colours, rounding=TRANSFORMERS_ROUNDING
    )
    return checked(how, f"{place}: ")


def _is_stated(key: str, value: Any) -> bool:
    return value is not None or key in _FOLLOWED


def _refuse_unknown_steps(values: Mapping[str, Any], place: str) -> None:
    for key in _FOLLOWED:
        if type(values.get(key, True)) is not bool:
            raise UserError(f"{place}: {key} is {str(values[key])[:60]!r}; expected true or false")
    for key, value in values.items():
        step = key.startswith("do_") and key not in (*_FOLLOWED, *_NO_MATTER)
        if value and (step or key in ("rescale_offset", "offset", "size_divisor", "use_square_size")):
            raise UserError(f"{place}: {key} is {str(value)[:60]}, which this package does not support")


def _geometry(values: Mapping[str, Any], place: str, *, crop_pct: bool) -> Preprocessing:
    """Returns a `Preprocessing` with the `size`, `mode`, `resized` and `crop_pct` of an image processor's config.

    The other fields have their defaults. With `crop_pct`, the config is that of a ConvNextImageProcessor.
    """
    crop = _sides(values.get("crop_size"), "crop_size", place) if values["do_center_crop"] else None
    if not values["do_resize"]:
        if crop is None:
            raise UserError(
                f"{place}: do_resize and do_center_crop are false, so images keep their sizes and cannot be batched; "
                "expected at least one to be true"
            )
        return Preprocessing(crop, "none", crop, None)
    size = values["size"]
    if type(size) is int:
        size = {"height": size, "width": size} if values["default_to_square"] else {"shortest_edge": size}
    elif isinstance(size, list) and len(size) == 2:
        size = dict(zip(("height", "width"), size, strict=True))
    size = {key: side for key, side in size.items() if side is not None} if isinstance(size, Mapping) else size
    if isinstance(size, Mapping) and set(size) == {"shortest_edge"} and is_side(size["shortest_edge"]):
        short = size["shortest_edge"]
        if crop_pct:
            return _of_convnext(short, values["crop_pct"], crop, place)
        if crop is None:
            raise UserError(
                f"{place}: do_center_crop is false and size is {dict(size)}, so images would differ in size; expected "
                "do_center_crop true, or height and width"
            )
        return Preprocessing(crop, "shorter", (short, short), None)
    if isinstance(size, Mapping) and set(size) == {"height", "width"} and not crop_pct:
        sides = _sides(size, "size", place)
        return Preprocessing(crop or sides, "stretch", sides, None)
    expected = "shortest_edge" if crop_pct else "height and width, or shortest_edge"
    raise UserError(f"{place}: size is {str(size)[:60]}; expected {expected}, in pixels")


def _of_convnext(short: int, crop_pct: Any, crop: tuple[int, int] | None, place: str) -> Preprocessing:
    """Returns the `Preprocessing` of a ConvNextImageProcessor for the input size `short`, in pixels.

    If `short` is below 384, the shorter side is resized to `short / crop_pct`, and the image is cropped. Otherwise, the
    image is stretched to a square.
    """
    if crop is not None:
        raise UserError(f"{place}: do_center_crop is true and would crop again after crop_pct: set it to false")
    if short >= 384:
        return Preprocessing((short, short), "stretch", (short, short), None)
    if not is_finite_number(crop_pct) or not 0.01 <= crop_pct <= 1:
        raise UserError(f"{place}: crop_pct is {crop_pct!r}; expected a number in (0, 1]")
    resized = int(short / crop_pct)
    return Preprocessing((short, short), "shorter", (resized, resized), crop_pct)


def _sides(sides: Any, key: str, place: str) -> tuple[int, int]:
    """Returns height and width from one number for both, a list or a dictionary, or raises `UserError`."""
    if type(sides) is int:
        sides = [sides, sides]
    if isinstance(sides, Mapping):
        stated = {name: side for name, side in sides.items() if side is not None}
        sides = [stated["height"], stated["width"]] if stated.keys() == {"height", "width"} else sides
    if not isinstance(sides, list) or len(sides) != 2 or not all(map(is_side, sides)):
        raise UserError(f"{place}: {key} is {str(sides)[:60]}; expected height and width, in pixels")
    return tuple(sides)


def to_transformers(how: Preprocessing) -> dict[str, Any] | None:
    """Returns the content of a `preprocessor_config.json`, or None if transformers cannot do this preprocessing.

    For images of some sizes, transformers may crop one pixel further up or left, see `Preprocessing.moved_by`.
    """
    tall, wide = how.target
    shorter = how.mode == "shorter" and tall == wide
    padded = how.mode == "none" or tall < how.size[0] or wide < how.size[1]
    if not (shorter or how.mode in ("stretch", "none")) or (padded and how.fill != (0, 0, 0)):
        return None
    if how.moved_by(TRANSFORMERS_ROUNDING) == "all":
        return None
    return {
        "image_processor_type": "BitImageProcessor",
        "do_resize": how.mode != "none",
        "size": {"shortest_edge": tall} if shorter else {"height": tall, "width": wide},
        "resample": FILTERS[how.interpolation],
        "do_center_crop": True,
        "crop_size": {"height": how.size[0], "width": how.size[1]},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(how.normalization.mean),
        "image_std": list(how.normalization.std),
        "do_convert_rgb": True,
    }


TRANSFORMERS_ROUNDING, TIMM_ROUNDING = "down", "nearest"
"""`Preprocessing.rounding` of each library. With "down", crops may be one pixel further up or left."""

PREPROCESSING_KEYS = ("input_size", "crop_pct", "crop_mode", "interpolation", "mean", "std")
"""Keys of timm's `pretrained_cfg` that specify preprocessing."""

_TIMM_MODES = {"center": "shorter", "squash": "stretch", "border": "longest"}


def from_timm(stated: Mapping[str, Any], place: str) -> Preprocessing:
    """Returns the preprocessing that `timm.data.create_transform` does for a `pretrained_cfg` in evaluation.

    Args:
      stated: the entries of `pretrained_cfg`.
      place: name of the file in error messages.

    Raises:
      UserError: a value is invalid or not supported. The message names its key.
    """
    size = stated.get("input_size") or [3, 224, 224]
    if not isinstance(size, list | tuple) or len(size) != 3 or not all(map(is_side, size)):
        raise UserError(f"{place}: input_size is {str(size)[:60]}; expected channels, height and width")
    if size[0] != 3:
        raise UserError(f"{place}: input_size has {size[0]} channels; expected 3 (red, green, blue)")
    crop_mode, crop_pct = stated.get("crop_mode") or "center", stated.get("crop_pct") or CROP_PCT
    if not isinstance(crop_mode, str) or crop_mode not in _TIMM_MODES:
        raise UserError(f"{place}: crop_mode is {str(crop_mode)[:60]!r}; expected one of {', '.join(_TIMM_MODES)}")
    interpolation = stated.get("interpolation") or "bicubic"
    if interpolation == "random":  # for training; timm's create_transform evaluates it as bilinear
        interpolation = "bilinear"
    colours = normalization(stated.get("mean") or IMAGENET_MEAN, stated.get("std") or IMAGENET_STD, f"{place}: ")
    mode = _TIMM_MODES[crop_mode]
    how = Preprocessing(
        size=tuple(size[1:]),
        mode=mode,
        crop_pct=crop_pct,
        interpolation=interpolation,
        normalization=colours,
        fill=colours.grey if mode == "longest" else (0, 0, 0),
        rounding=TIMM_ROUNDING,
    )
    return checked(how, f"{place}: ")


def to_timm(how: Preprocessing) -> dict[str, Any] | None:
    """Returns the preprocessing as entries of timm's `pretrained_cfg`, or None if timm cannot do it.

    For images of some sizes, timm may crop one pixel further down or right, see `Preprocessing.moved_by`.
    """
    stated = {
        "input_size": [3, *how.size],
        "crop_pct": None,
        "crop_mode": next((name for name, mode in _TIMM_MODES.items() if mode == how.mode), None),
        "interpolation": how.interpolation,
        "mean": list(how.normalization.mean),
        "std": list(how.normalization.std),
    }
    if stated["crop_mode"] is None or how.moved_by(TIMM_ROUNDING) == "all":
        return None
    exact = how.size[0] / how.target[0]
    between = how.size[0] / (how.target[0] + 0.5)  # in case a rounding error in `exact` loses a pixel
    for crop_pct in (how.crop_pct or exact, between):
        stated["crop_pct"] = crop_pct
        same = from_timm(stated, "timm")
        if (same.target, same.fill) == (how.target, how.fill):
            return stated
    return None
