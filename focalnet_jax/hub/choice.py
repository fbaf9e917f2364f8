"""Chooses the files of a repository from which a model is read."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from focalnet_jax.errors import UserError, abbreviated, suggest

MODEL_FILES = (
    "model.safetensors.index.json",
    "model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
)
"""Names of weights files that transformers and timm write, in order of preference."""

DESCRIPTIONS = ("config.json", "preprocessor_config.json", "processor_config.json")
"""Names of the files next to the weights that contain model options, class names and preprocessing."""

INDEX = ".index.json"  # suffix of an index of shards
# Suffixes of other weights files, in order of preference. Suffixes in one tuple are equally good.
_SUFFIXES = ((".safetensors",), (".bin",), (".pth", ".pt"), (".ckpt", ".tar"))
# Files with the same suffixes that trainers write next to a model.
_OF_TRAINERS = re.compile(r"(training_args|optimizer|scheduler|scaler|rng_state|random_states)[._\d].*")


@dataclass(frozen=True)
class Choice:
    """Files to download, as paths in the repository."""

    weights: str  # the weights, or the index of their shards
    descriptions: tuple[str, ...]  # files of `DESCRIPTIONS` in the same folder


def choose(names: Collection[str], path: str, address: str) -> Choice:
    """Returns the files from which a model is read.

    Safetensors files are preferred to .bin files, and .bin files to .pth files.

    Args:
      names: paths of all files of the repository.
      path: the file or folder in the address, or "" for the root of the repository.
      address: the address, for messages.

    Raises:
      UserError: there is no such file or no weights file, or there are several weights files to choose from.
    """
    names = set(names)
    if path in names:
        weights = path
    else:
        folder = f"{path}/" if path else ""
        inside = {name.removeprefix(folder) for name in names if name.startswith(folder)}
        if not inside:
            files = abbreviated(sorted(names), 5)
            raise UserError(
                f"{address}: the repository has no file {path}.{suggest(path, names)} Its files are {files}"
                if names
                else f"{address}: the repository is empty"
            )
        weights = folder + _best({name for name in inside if "/" not in name}, sorted(inside), address)
    folder = weights.rpartition("/")[0]
    descriptions = [f"{folder}/{name}" if folder else name for name in DESCRIPTIONS]
    return Choice(weights, tuple(name for name in descriptions if name in names and name != weights))


def _best(names: Collection[str], everything: Sequence[str], address: str) -> str:
    for name in MODEL_FILES:
        if name in names:
            return name
    for suffixes in _SUFFIXES:
        found = sorted(name for name in names if name.endswith(suffixes) and not _OF_TRAINERS.fullmatch(name))
        if len(found) > 1:
            raise UserError(
                f"{address} contains {len(found)} weights files, {abbreviated(found)}: give one of them, such as "
                f"{address}/{found[0]}"
            )
        if found:
            return found[0]
    deeper = [name for name in everything if name.rpartition("/")[2] in MODEL_FILES]
    if deeper:
        raise UserError(
            f"{address} contains weights only in folders, {abbreviated(deeper)}: give one of them, such as "
            f"{address}/{deeper[0]}"
        )
    raise UserError(f"{address} contains no weights of a PyTorch model; its files are {abbreviated(everything, 5)}")


def shards_of(index: Mapping[str, Any], weights: str, address: str) -> list[str]:
    """Returns the sorted paths of the shards listed in an index.

    Args:
      index: content of the index.
      weights: path of the index in the repository.
      address: the address, for messages.

    Raises:
      UserError: the content is not an index of shards, or lists files outside its folder.
    """
    shards = index.get("weight_map")
    named = sorted(set(shards.values())) if isinstance(shards, dict) and _all_strings(shards.values()) else []
    if not named or any("/" in name or "\\" in name or name in ("", ".", "..") for name in named):
        raise UserError(f"{address}: {weights} is not an index of shards; expected a weight_map from tensors to files")
    folder = weights.rpartition("/")[0]
    return [f"{folder}/{name}" if folder else name for name in named]


def _all_strings(values: Collection[Any]) -> bool:
    return all(isinstance(value, str) for value in values)
