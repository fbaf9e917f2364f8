"""Reads how images are normalized from the config that mmsegmentation and mmdetection store as text in their files.

`meta["config"]` (mmcv) and `meta["cfg"]` (mmengine) are Python assignments. They are parsed, never executed.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from focalnet_jax.convert.normalizers import scaled_normalization
from focalnet_jax.data.preprocessing import Normalization
from focalnet_jax.errors import UserError

CONFIGS = (("meta", "config"), ("meta", "cfg"))
"""Last two parts of the names of entries with a config."""
_LONGEST = 1_000_000  # largest number of characters; configs have about 10,000
_DAMAGED = (SyntaxError, ValueError, TypeError, MemoryError, RecursionError)


@dataclass(frozen=True)
class ConfiguredNormalization:
    """The normalization of images in a config, or the reason why it is not used.

    Attributes:
      normalization: mean and std of red, green and blue.
      blue_first: whether the model's input channels are blue, green, red.
      refused: message with the reason, or empty.
    """

    normalization: Normalization | None = None
    blue_first: bool = False
    refused: str = ""


def configured_normalization(texts: Mapping[str, str]) -> ConfiguredNormalization | None:
    """Returns the normalization in the configs of a file, or None if no config specifies one.

    Args:
      texts: configs by the name of their entry in the file.
    """
    found = set()
    for place, text in texts.items():
        try:
            steps = _steps(text)
        except _DAMAGED:
            return ConfiguredNormalization(refused=f"{place} in the file is not a readable config: it is not used")
        try:
            found |= {_read(step) for step in steps}
        except UserError as error:
            return ConfiguredNormalization(refused=f"the normalization in {place} in the file is not used: {error}")
    if len(found) > 1:
        where = " and ".join(texts)
        return ConfiguredNormalization(refused=f"{where} in the file has several normalizations: none is used")
    return next((ConfiguredNormalization(*each) for each in found), None)


def _steps(text: str) -> list[dict[str, Any]]:
    """Returns the settings of each step of a config that normalizes images: its type, mean, std and channel order.

    Raises:
      Exception: one of `_DAMAGED`; the text is not a readable config.
    """
    if len(text) > _LONGEST:
        raise ValueError
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings of invalid escapes in strings
        parsed = ast.parse(text)
    found = []
    for node in ast.walk(parsed):
        entries = _entries(node)
        if "mean" not in entries or "std" not in entries:
            continue
        keys = ("type", "mean", "std", "to_rgb", "bgr_to_rgb", "rgb_to_bgr")
        step = {key: ast.literal_eval(entries[key]) for key in keys if key in entries}
        kind = step["type"] = str(step.get("type", "")).rpartition(".")[2]
        # Initial values of layers also have a mean and a std, but another type.
        normalizes = kind == "Normalize" or kind.lower().endswith("preprocessor") or (not kind and "to_rgb" in step)
        if normalizes and step["mean"] is not None:
            found.append(step)
    return found


def _entries(node: ast.AST) -> dict[str, ast.expr]:
    """Returns the entries of `dict(...)` or `{...}` by name."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
        return {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg is not None}
    if isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values, strict=True)
        return {key.value: value for key, value in pairs if isinstance(key, ast.Constant)}
    return {}


def _read(step: Mapping[str, Any]) -> tuple[Normalization, bool]:
    """Returns the normalization of a step, and whether the channels are blue, green, red.

    mmcv reads images with blue first. By default, `Normalize` converts images to red first, and preprocessors do not.

    Raises:
      UserError: the step is not supported, or mean or std is invalid.
    """
    preprocessor = "to_rgb" not in step and step["type"] != "Normalize"
    blue_first = not (step.get("bgr_to_rgb", False) if preprocessor else step.get("to_rgb", True))
    if preprocessor and step.get("rgb_to_bgr"):
        raise UserError(
            "rgb_to_bgr=True is for images that are read with red first, but mmcv reads them with blue first"
        )
    if not all(isinstance(step[key], list | tuple) and len(step[key]) == 3 for key in ("mean", "std")):
        raise UserError(f"mean is {str(step['mean'])[:60]} and std {str(step['std'])[:60]}; expected 3 numbers each")
    mean, std = (list(step[key])[:: -1 if blue_first else 1] for key in ("mean", "std"))
    return scaled_normalization(mean, std, of_levels=True), blue_first
