"""Layers before a FocalNet, in its file, that normalize pictures: the preprocessing of the weights.

Such as `nn.Sequential(Normalize(mean, std), model)`, the `normalizer` of robustness and RobustBench, the
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
_OF_LEVELS = "data_preprocessor"  # mmengine's, which is given levels in [0, 255]


@dataclass(frozen=True)
class FoundNormalization:
    """A normalization that tensors of a file state, or why it cannot be followed."""

    names: tuple[str, ...]  # of the tensors
    normalization: Normalization | None
    refused: str = ""


def find_normalization(chosen: Candidate, around: Sequence[str], tensors: Tensors) -> FoundNormalization | None:
    """Returns how the modules around a FocalNet normalize pictures; None where they do not.

    Args:
      chosen: the FocalNet.
      around: names of tensors that are not another FocalNet's.
      tensors: all of the file's.
    """
    for scope in (chosen.prefix, *chosen.enclosing()):
        places = _places(chosen, scope, around, tensors)
        if places:
            return _joined([_read(place, names, tensors) for place, names in places.items()])
    return None


def _places(chosen: Candidate, scope: str, around: Sequence[str], tensors: Tensors) -> dict[str, list[str]]:
    """Tensors of one number, or one per channel, by the module that holds them, at most two below `scope`."""
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
    """The normalization of one module."""
    parts = {name.rpartition(".")[2]: name for name in names}
    pairs = [(parts[mean], parts[std]) for std, mean in _STDS.items() if std in parts and mean in parts]
    if len(pairs) == 1 and not {*pairs[0]} & tensors.problems.keys():
        return _of_pair(*pairs[0], place, tensors)
    which = ", ".join(names[:3])
    return FoundNormalization(
        tuple(names), None, f"{which} may normalize pictures, and how is not clear; expected one mean and one std"
    )


def _of_pair(mean_name: str, std_name: str, place: str, tensors: Tensors) -> FoundNormalization:
    names = mean_name, std_name
    try:
        mean, std = (_numbers(tensors[name]) for name in names)
        colours = normalization(mean, std, "its ")
        scale = _scale(mean, std, of_levels=place.rpartition(".")[2] == _OF_LEVELS)
        found = Normalization(*(tuple(_short(each / scale) for each in part) for part in (colours.mean, colours.std)))
        _refuse_blue_first(found)
    except UserError as error:
        return FoundNormalization(names, None, f"{mean_name} and {std_name} cannot be followed: {error}")
    return FoundNormalization(names, found)


def _numbers(array: np.ndarray) -> list[float]:
    """As the shortest decimals that have these values in float32."""
    values = [float(str(value)) for value in np.asarray(array, np.float32).reshape(-1)]
    return values * 3 if len(values) == 1 else values


def _short(value: float) -> float:
    """Without the rounding error of a division, far below what float32 tells apart."""
    return float(f"{value:.12g}")


def _scale(mean: Sequence[float], std: Sequence[float], *, of_levels: bool) -> float:
    """What is white in the numbers that are normalized: 1 or 255; `UserError` where both could be."""
    identity = not any(mean) and set(std) == {1.0}
    if max(mean) >= 16 or (min(std) >= 16 and not any(mean)) or (of_levels and identity):
        fits, scale = max(*mean, *std) <= 255, 255.0
    else:
        fits, scale = max(*mean, *std) <= 1 and not of_levels, 1.0
    if not fits:
        expected = "levels in [0, 255]" if of_levels else "levels in [0, 1] or in [0, 255]"
        raise UserError(f"mean {mean} and std {std} do not fit {expected}")
    return scale


def _refuse_blue_first(found: Normalization) -> None:
    """Raises `UserError` for ImageNet's mean with blue as the first channel."""

    def distance(mean: Sequence[float]) -> float:
        return float(np.abs(np.subtract(mean, IMAGENET.mean)).max())

    if distance(found.mean[::-1]) < 0.01 < distance(found.mean):
        raise UserError(
            "this is ImageNet's mean with the channels blue, green, red; this package gives a model red, green, blue"
        )


def _joined(found: Sequence[FoundNormalization]) -> FoundNormalization:
    """One of those that say the same; refused where they do not."""
    names = tuple(name for each in found for name in each.names)
    refused: Iterator[str] = (each.refused for each in found if each.refused)
    first = found[0].normalization
    if any(each.normalization != first for each in found):
        where = ", ".join(names[:4])
        return FoundNormalization(names, None, next(refused, f"{where} state several normalizations; expected one"))
    return FoundNormalization(names, first, next(refused, ""))
