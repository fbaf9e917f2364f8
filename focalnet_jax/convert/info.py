"""Class names and preprocessing that belong to weights, with conversion to and from JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from focalnet_jax.convert.class_names import palette_at
from focalnet_jax.convert.preprocessors import from_transformers
from focalnet_jax.data.preprocessing import USUAL, Preprocessing, fit_in_words, from_dict, is_side
from focalnet_jax.errors import UserError


@dataclass(frozen=True)
class WeightsInfo:
    """Class names and preprocessing that belong to weights. Unknown values are None."""

    classes: tuple[str, ...] | None = None  # in class order; () if no names apply, such as for a new classifier
    exact: bool = False  # whether `classes` are the names in the training data, not descriptions
    words: tuple[str, ...] | None = None  # descriptions of the classes, in the same order
    preprocessing: Preprocessing | None = None
    normalization_only: bool = False  # whether all of `preprocessing` except normalization is the default
    refused: str = ""  # why the preprocessing cannot be followed, as a message
    preprocessor: Mapping[str, Any] | None = None  # content of preprocessor_config.json
    palette: tuple[tuple[int, int, int], ...] | None = None  # red, green and blue of each class, from 0 to 255
    box: tuple[int, int] | None = None  # long and short side into which images are fitted; not for classification
    image_size: tuple[int, int] | None = None  # value in config.json; `preprocessing` has the size of the model's input

    def follow(self) -> Preprocessing | None:
        """Returns the preprocessing, or None if it is unknown. Raises `UserError` if it cannot be followed."""
        if self.refused:
            raise UserError(self.refused)
        return self.preprocessing

    def describe_preprocessing(self) -> str:
        """Returns the preprocessing in words, or "" if it is unknown."""
        how = self.preprocessing
        if how is None:
            return ""
        return how.describe() if self.box is None else fit_in_words(self.box, how.normalization)

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as JSON values, which `info_from_dict` reads."""
        optional = ("palette", "box")  # old versions do not read these keys
        return {key: value for key, value in asdict(self).items() if key not in optional or value is not None}


def info_from_dict(values: Mapping[str, Any], place: str) -> WeightsInfo:
    """Returns the info in the output of `WeightsInfo.to_dict`.

    The key "preprocessing" may be missing, because old versions did not write it.

    Args:
      values: the output of `to_dict`.
      place: name of the preprocessor's file in messages.

    Raises:
      UserError: a value is invalid.
    """
    if not isinstance(values, Mapping):
        raise UserError(f"it is {values!r:.60}; expected a JSON object")
    names = {key: _names(key, values[key]) for key in ("classes", "words") if values.get(key) is not None}
    size, raw, own = values.get("image_size"), values.get("preprocessor"), values.get("preprocessing")
    size = None if size is None else _size(size)
    box = None if values.get("box") is None else _size(values["box"], "box")
    for key, value in (("preprocessor", raw), ("preprocessing", own)):
        if not isinstance(value, Mapping | None):
            raise UserError(f"{key} is {value!r:.60}; expected a JSON object")
    described, known = len(names.get("words", ())), len(names.get("classes", ()))
    if "words" in names and described != known:
        raise UserError(f"words has {described} {'entry' if described == 1 else 'entries'} for {known} classes")
    palette = palette_at("palette", values.get("palette"))
    info = WeightsInfo(**names, exact=bool(values.get("exact")), palette=palette, box=box, image_size=size)
    if raw is not None:
        return with_exact_crop(with_preprocessor(info, raw, place), None if own is None else from_dict(own))
    if own is not None:
        only = bool(values.get("normalization_only"))
        return replace(info, preprocessing=from_dict(own), normalization_only=only, refused=_text(values, "refused"))
    if _text(values, "refused"):
        return replace(info, refused=_text(values, "refused"))
    return info if size is None else replace(info, preprocessing=USUAL.at(size))


def _names(key: str, names: Any) -> tuple[str, ...]:
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{key} is {names!r:.60}; expected a list with a string for every class")
    return tuple(names)


def _size(size: Any, key: str = "image_size") -> tuple[int, int]:
    both = list(size) if isinstance(size, list | tuple) else [size, size]
    if len(both) != 2 or not all(map(is_side, both)):
        raise UserError(f"{key} is {size!r:.60}; expected a size in pixels, or two sides")
    return tuple(both)


def _text(values: Mapping[str, Any], key: str) -> str:
    return value if isinstance(value := values.get(key), str) else ""


def with_preprocessor(info: WeightsInfo, raw: Mapping[str, Any], place: str) -> WeightsInfo:
    """Returns `info` with the preprocessing of a `preprocessor_config.json`.

    If the preprocessing is not supported, `refused` has the reason.
    """
    try:
        return replace(info, preprocessor=raw, preprocessing=from_transformers(raw, place))
    except UserError as error:  # only `follow` raises it, because the weights are usable without preprocessing
        return replace(info, preprocessor=raw, refused=str(error))


def with_exact_crop(info: WeightsInfo, own: Preprocessing | None) -> WeightsInfo:
    """Returns `info` with `own` as the preprocessing if both differ only in the rounding of crops, otherwise `info`.

    `own` is from this package's metadata. The files of timm and transformers cannot express the rounding.
    """
    if own is None or info.preprocessing is None or not own.same_except_rounding(info.preprocessing):
        return info
    return replace(info, preprocessing=own)
