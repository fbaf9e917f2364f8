"""Finds layers in a weights file that normalize images before a FocalNet.

Their normalization becomes a part of the preprocessing of the weights. Examples are
`nn.Sequential(Normalize(mean, std), model)`, the `normalizer` of robustness and RobustBench, and the
`data_preprocessor` of mmengine.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from focalnet_jax.convert.candidates import Candidate
from focalnet_jax.convert.tensors import Tensors
from focalnet_jax.data.preprocessing import IMAGENET, Normalization, normalization
from focalnet_jax.errors import UserError

_STDS = {"std": "mean", "new_std": "new_mean", "_std": "_mean", "sigma": "mu", "stds": "means"} | {
    f"{of}_std": f"{of}_mean" for of in ("pixel", "image", "img", "input", "norm", "data")
}
_PARTS = {*_STDS, *_STDS.values()}
_NORMALIZERS = re.compile(r"(\w*normali[sz]\w*|\w*preproc\w*|\w*standardi[sz]\w*)", re.IGNORECASE)
_OF_LEVELS = "data_preprocessor"  # module of mmengine, whose input has pixel values in [0, 255]


@dataclass(frozen=True)
class FoundNormalization:
    """A normalization stored as tensors of a file, or the reason why it cannot be used."""

    names: tuple[str, ...]  # names of the tensors
    normalization: Normalization | None  # None if it cannot be used
    refused: str = ""  # the reason, as a message


def find_normalization(chosen: Candidate, around: Sequence[str], tensors: Tensors) -> FoundNormalization | None:
    """Returns the normalization of images by modules around a FocalNet, or None if no module normalizes images.

    Args:
      chosen: the FocalNet.
      around: names of tensors that do not belong to another FocalNet.
      tensors: all tensors of the file.
    """
    for scope in (chosen.prefix, *chosen.enclosing()):
        places = _places(chosen, scope, around, tensors)
        if places:
            return _joined([_read(place, names, tensors) for place, names in places.items()])
    return None


def _places(chosen: Candidate, scope: str, around: Sequence[str], tensors: Tensors) -> dict[str, list[str]]:
    """Returns the names of tensors that may be a mean or std, by module. Searches up to two levels below `scope`."""
    places: dict[str, list[str]] = {}
    for name in around:
        if not name.startswith(scope) or name.count(".", len(scope)) > 2:
            continue
        place, _, part = name.rpartition(".")
        module = place.rpartition(".")[2]
        named = bool(_NORMALIZERS.fullmatch(module))
        count = np.prod(tensors.shapes[name], dtype=object)
        own = scope != chosen.prefix and chosen.holds(name)
        sized = count == 3 or (count == 1 and (named or module.isdecimal()))
        if sized and not own and (named or part in _PARTS or part == "running_mean"):
            places.setdefault(place, []).append(name)
    return places


def _read(place: str, names: Sequence[str], tensors: Tensors) -> FoundNormalization:
    """Returns the normalization by the module `place` with the tensors `names`, or the reason why it is unclear."""
    parts = {name.rpartition(".")[2]: name for name in names}
    pairs = [(parts[mean], parts[std]) for std, mean in _STDS.items() if std in parts and mean in parts]
    if len(pairs) == 1 and not {*pairs[0]} & tensors.problems.keys():
        return _of_pair(*pairs[0], place, tensors)
    which = ", ".join(names[:3])
    return FoundNormalization(
        tuple(names), None, f"{which} may normalize images, but their meaning is unclear; expected one mean and one std"
    )


def _of_pair(mean_name: str, std_name: str, place: str, tensors: Tensors) -> FoundNormalization:
    names = mean_name, std_name
    try:
        mean, std = (_numbers(tensors[name]) for name in names)
        found = scaled_normalization(mean, std, of_levels=place.rpartition(".")[2] == _OF_LEVELS)
    except UserError as error:
        return FoundNormalization(names, None, f"{mean_name} and {std_name} cannot be used: {error}")
    return FoundNormalization(names, found)


def scaled_normalization(mean: Sequence[float], std: Sequence[float], *, of_levels: bool) -> Normalization:
    """Returns the normalization for pixel values in [0, 1].

    Args:
      mean: mean of red, green and blue, for pixel values in [0, 1] or in [0, 255].
      std: standard deviation of red, green and blue, for the same range.
      of_levels: whether the range is known to be [0, 255]. Otherwise, the values determine it.

    Raises:
      UserError: a value is invalid, the values fit neither range or not the known one, or the channels are blue, green,
        red.
    """
    colours = normalization(mean, std, "its ")
    scale = _scale(mean, std, of_levels=of_levels)
    found = Normalization(*(tuple(_short(each / scale) for each in part) for part in (colours.mean, colours.std)))
    _refuse_blue_first(found)
    return found


def _numbers(array: np.ndarray) -> list[float]:
    """Returns the values of a tensor, as the shortest decimals that round to them in float32.

    A single value is returned three times, once for each channel.
    """
    values = [float(str(value)) for value in np.asarray(array, np.float32).reshape(-1)]
    return values * 3 if len(values) == 1 else values


def _short(value: float) -> float:
    """Rounds a value to 12 digits, which removes the rounding error of a division."""
    return float(f"{value:.12g}")


def _scale(mean: Sequence[float], std: Sequence[float], *, of_levels: bool) -> float:
    """Returns the pixel value of white in the images to normalize, 1 or 255. Raises `UserError` if it is ambiguous."""
    identity = not any(mean) and set(std) == {1.0}
    if max(mean) >= 16 or (min(std) >= 16 and not any(mean)) or (of_levels and identity):
        fits, scale = max(*mean, *std) <= 255, 255.0
    else:
        fits, scale = max(*mean, *std) <= 1 and not of_levels, 1.0
    if not fits:
        expected = "pixel values in [0, 255]" if of_levels else "pixel values in [0, 1] or in [0, 255]"
        raise UserError(f"mean {mean} and std {std} do not fit {expected}")
    return scale


def _refuse_blue_first(found: Normalization) -> None:
    """Raises `UserError` if the mean is ImageNet's in the channel order blue, green, red."""

    def distance(mean: Sequence[float]) -> float:
        return float(np.abs(np.subtract(mean, IMAGENET.mean)).max())

    if distance(found.mean[::-1]) < 0.01 < distance(found.mean):
        raise UserError(
            "this is ImageNet's mean with the channels blue, green, red; this package's inputs are red, green, blue"
        )


def _joined(found: Sequence[FoundNormalization]) -> FoundNormalization:
    """Returns the normalization that all entries of `found` have, or the reason why there is none."""
    names = tuple(name for each in found for name in each.names)
    refused: Iterator[str] = (each.refused for each in found if each.refused)
    first = found[0].normalization
    if any(each.normalization != first for each in found):
        where = ", ".join(names[:4])
        return FoundNormalization(names, None, next(refused, f"{where} specify different normalizations; expected one"))
    return FoundNormalization(names, first, next(refused, ""))
