"""Describes the preprocessing of images for evaluation: resize, centre crop, normalization.

Preprocessing belongs to the weights, because predictions depend on it. `transforms.eval_transform` applies it on the
host, and `normalization.normalize` on the device.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from focalnet_jax.data.decode import LARGEST_SIDE
from focalnet_jax.data.statistics import IMAGENET_MEAN, IMAGENET_STD
from focalnet_jax.errors import UserError
from focalnet_jax.settings.checks import RESIZE_MODES

# Pillow's numbers of the filters, by the filters' names in timm and in this package.
FILTERS = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5}
CROP_PCT = 224 / 256  # fraction of the resized image's side that the crop keeps in the published recipes


@dataclass(frozen=True)
class Normalization:
    """Mean and standard deviation of each channel, for pixel values in [0, 1].

    A uint8 image is normalized to `(image / 255 - mean) / std`. Instances are hashable, so that they can be static
    arguments of `jax.jit`.
    """

    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    @property
    def grey(self) -> tuple[int, int, int]:
        """The RGB values, 0 to 255, that are closest to 0 after normalization."""
        return tuple(min(max(round(255 * mean), 0), 255) for mean in self.mean)


IMAGENET = Normalization()


@dataclass(frozen=True)
class Preprocessing:
    """Describes how an image `[H, W, 3]` uint8 of any size is converted to the input of a model.

    Attributes:
      size: height and width of the result, in pixels.
      mode: resize mode. "shorter" keeps the aspect ratio and covers `resized`; "longest" keeps the aspect ratio and
        fits into `resized`; "stretch" resizes to `resized`; "none" does not resize.
      resized: height and width to resize to; None means `size / crop_pct`, rounded down.
      crop_pct: fraction of the resized image's side that the crop keeps, or None if it is unknown.
      interpolation: filter, a name in `FILTERS`.
      normalization: normalization of the result.
      fill: RGB values, 0 to 255, of the padding if the resized image is smaller than the crop.
      rounding: rounding of the crop's position, "nearest" as in timm, or "down" as in transformers. The positions
        differ by at most one pixel.
    """

    size: tuple[int, int] = (224, 224)
    mode: str = "shorter"
    resized: tuple[int, int] | None = None
    crop_pct: float | None = CROP_PCT
    interpolation: str = "bicubic"
    normalization: Normalization = IMAGENET
    fill: tuple[int, int, int] = (0, 0, 0)
    rounding: str = "nearest"

    @property
    def target(self) -> tuple[int, int]:
        """Height and width to resize to, in pixels."""
        if self.resized is not None:
            return self.resized
        return tuple(math.floor(side / (self.crop_pct or 1)) for side in self.size)

    def at(self, size: tuple[int, int]) -> Preprocessing:
        """Returns the preprocessing for another output size. The crop keeps the same fraction of the resized image."""
        if size == self.size:
            return self
        if self.crop_pct is not None:
            return dataclasses.replace(self, size=size, resized=None)
        share = zip(size, self.target, self.size, strict=True)
        return dataclasses.replace(self, size=size, resized=tuple(new * large // old for new, large, old in share))

    def crop_start(self, large: int, small: int) -> int:
        """Returns the index along an axis at which a centred crop of `small` pixels starts in `large` pixels.

        The index is negative if the crop is larger than the image.
        """
        if self.rounding == "down":
            return (large - small) // 2
        return round((large - small) / 2) if large >= small else -((small - large) // 2)

    def moved_by(self, rounding: str) -> str:
        """Returns for which images the given rounding would move the crop by one pixel along a side.

        The result is "none", "some" (it depends on the size of the image) or "all".
        """
        other = dataclasses.replace(self, rounding=rounding)
        sides = zip(self.target, self.size, strict=True)
        if self.mode != "none" and any(self.crop_start(*side) != other.crop_start(*side) for side in sides):
            return "all"
        # In the other modes, a side of the resized image depends on the image's aspect ratio.
        return "none" if self.mode == "stretch" or rounding == self.rounding else "some"

    def same_except_rounding(self, other: Preprocessing) -> bool:
        """Returns whether two preprocessings differ at most in `rounding`."""
        ours, theirs = (
            dataclasses.replace(how, resized=how.target, crop_pct=None, rounding="down") for how in (self, other)
        )
        return ours == theirs

    def describe(self) -> str:
        """Returns a one-line description."""
        (tall, wide), crop = self.target, "x".join(map(str, self.size))
        how = {
            "shorter": f"shorter side to {tall}" if tall == wide else f"resized to cover {tall}x{wide}",
            "longest": f"resized to fit into {tall}x{wide}",
            "stretch": f"stretched to {tall}x{wide}",
            "none": "not resized",
        }[self.mode]
        cut = "" if self.mode == "stretch" and self.size == self.target else f", centre crop {crop}"
        return f"{how}{cut}, {self.interpolation}, {normalization_in_words(self.normalization)}"

    def to_dict(self) -> dict[str, Any]:
        """Returns a JSON-serializable dictionary, which `from_dict` reads."""
        return dataclasses.asdict(self)


def fit_in_words(box: tuple[int, int], normalization: Normalization) -> str:
    """Returns a description of the preprocessing of dense tasks. `box` is the long and the short side in pixels."""
    how = f"resized to fit into {box[0]}x{box[1]} pixels, bilinear without antialiasing"
    return f"{how}, {normalization_in_words(normalization)}"


def normalization_in_words(by: Normalization) -> str:
    """Returns a description such as `mean 0.5, std 0.5` or `ImageNet's mean and std`."""
    if by == IMAGENET:
        return "ImageNet's mean and std"
    return f"mean {_numbers(by.mean)}, std {_numbers(by.std)}"


def _numbers(values: tuple[float, ...]) -> str:
    return f"{values[0]:.4g}" if len(set(values)) == 1 else "/".join(f"{value:.4g}" for value in values)


USUAL = Preprocessing()  # the preprocessing of the published recipes on ImageNet


def from_config(data: Mapping[str, Any]) -> Preprocessing:
    """Returns the preprocessing that the `data` section of a config describes.

    Only the key `image_size` is required; other missing keys have their defaults.

    Raises:
      UserError: keys contradict each other, such as an `eval_resize` below `image_size`.
    """
    size, resized = sides(data["image_size"]), data.get("eval_resize")
    mode = data.get("eval_resize_mode") or "shorter"
    mean, std = data.get("mean") or IMAGENET_MEAN, data.get("std") or IMAGENET_STD
    colours = Normalization(tuple(map(float, mean)), tuple(map(float, std)))
    if resized is not None and mode == "none":
        raise UserError(
            f"data.eval_resize={resized} has no effect with data.eval_resize_mode=none: leave out one of the two keys"
        )
    if resized is not None and mode != "longest" and any(map(int.__lt__, sides(resized), size)):
        shown = data["image_size"]
        raise UserError(
            f"data.eval_resize={resized} is smaller than the crop, data.image_size={shown}: increase eval_resize"
        )
    return Preprocessing(
        size=size,
        mode=mode,
        resized=None if resized is None else sides(resized),
        crop_pct=None if resized is not None else CROP_PCT if mode == "shorter" else 1.0,
        interpolation=data.get("interpolation") or "bicubic",
        normalization=colours,
        fill=colours.grey if mode == "longest" else (0, 0, 0),
    )


def sides(size: int | Sequence[int]) -> tuple[int, int]:
    """Returns the height and width of a size, which is one number for a square, or a pair."""
    return (size, size) if isinstance(size, int) else tuple(size)


def in_words(size: int | Sequence[int]) -> str:
    """Returns a size as a string, such as `224`, or `192x256` if height and width differ."""
    height, width = sides(size)
    return str(height) if height == width else f"{height}x{width}"


def from_dict(values: Mapping[str, Any]) -> Preprocessing:
    """Returns the preprocessing from a dictionary made by `Preprocessing.to_dict`.

    Raises:
      UserError: a key or a value is invalid.
    """
    known = {field.name for field in dataclasses.fields(Preprocessing)}
    values = dict(values)
    if values.keys() - known:
        unknown = sorted(values.keys() - known)[0]
        raise UserError(f"preprocessing: unknown key {unknown!r}; expected one of {', '.join(sorted(known))}")
    parsed = dict(values)
    for key in ("size", "resized", "fill"):
        if isinstance(values.get(key), list | tuple):
            parsed[key] = tuple(values[key])
    colours = values.get("normalization")
    if colours is not None:
        if not isinstance(colours, Mapping) or set(colours) != {"mean", "std"}:
            raise UserError(f"preprocessing: normalization is {str(colours)[:60]}; expected a mean and a std")
        parsed["normalization"] = normalization(colours["mean"], colours["std"], "preprocessing: ")
    return checked(Preprocessing(**parsed))


def checked(how: Preprocessing, place: str = "preprocessing: ") -> Preprocessing:
    """Checks a preprocessing, and returns it unchanged.

    Args:
      how: the preprocessing.
      place: start of messages, which names the file or key that contains the values.

    Raises:
      UserError: a value is invalid.
    """
    if not isinstance(how.mode, str) or how.mode not in RESIZE_MODES:
        raise UserError(f"{place}mode is {how.mode!r}; expected one of {', '.join(RESIZE_MODES)}")
    if not isinstance(how.interpolation, str) or how.interpolation not in FILTERS:
        raise UserError(f"{place}interpolation is {how.interpolation!r}; expected one of {', '.join(FILTERS)}")
    if not isinstance(how.rounding, str) or how.rounding not in ("nearest", "down"):
        raise UserError(f"{place}rounding is {how.rounding!r}; expected nearest or down")
    if how.crop_pct is not None and not (is_finite_number(how.crop_pct) and 0.01 <= how.crop_pct <= 100):
        raise UserError(f"{place}crop_pct is {how.crop_pct!r}; expected a number from 0.01 to 100, such as 0.875")
    for name in ("size", "target"):  # in this order, because target depends on size
        sides = getattr(how, name)
        if not (isinstance(sides, tuple) and len(sides) == 2 and all(map(is_side, sides))):
            raise UserError(f"{place}{name} is {sides!r}; expected a height and width of 1 to {LARGEST_SIDE} pixels")
    if not (
        isinstance(how.fill, tuple)
        and len(how.fill) == 3
        and all(type(value) is int and 0 <= value <= 255 for value in how.fill)
    ):
        raise UserError(f"{place}fill is {how.fill!r}; expected three whole numbers from 0 to 255")
    return how


def is_finite_number(value: Any) -> bool:
    """Returns whether a value is a finite number, and not a bool."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def is_side(value: Any) -> bool:
    """Returns whether a value is a valid side of an image, a whole number of pixels from 1 to `LARGEST_SIDE`."""
    return type(value) is int and 1 <= value <= LARGEST_SIDE


def normalization(mean: Any, std: Any, place: str, scale: float = 1.0) -> Normalization:
    """Returns the normalization for pixel values in [0, 1] from the mean and std in a file.

    Args:
      mean: one number for all channels, or three numbers.
      std: one number for all channels, or three numbers.
      place: start of messages, before the name of the key.
      scale: largest pixel value in the units of mean and std, such as 255.

    Raises:
      UserError: a value is not a finite number, std is not positive, or there are not three channels.
    """
    parts = []
    for name, value in (("mean", mean), ("std", std)):
        values = [value] * 3 if is_finite_number(value) else value
        if not isinstance(values, list | tuple) or not all(map(is_finite_number, values)):
            raise UserError(f"{place}{name} is {str(value)[:60]}; expected finite numbers, one per channel")
        if len(values) != 3:
            raise UserError(f"{place}{name} has {len(values)} channels; expected 3 (red, green, blue)")
        if name == "std" and min(values) <= 0:
            raise UserError(f"{place}{name} is {list(values)}; expected positive numbers")
        parts.append(tuple(float(each) / scale for each in values))
    return Normalization(*parts)
