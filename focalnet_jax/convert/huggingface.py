"""Reads and writes config.json and preprocessor_config.json of a Hugging Face model directory."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from focalnet_jax.convert.files import read_json
from focalnet_jax.convert.info import WeightsInfo, with_preprocessor
from focalnet_jax.convert.preprocessors import TRANSFORMERS_ROUNDING, to_transformers
from focalnet_jax.data.class_lists import output_names
from focalnet_jax.data.preprocessing import USUAL, is_side, sides
from focalnet_jax.errors import UserError, abbreviated
from focalnet_jax.model import FocalNetConfig

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
EXACT_CROP = "this package reads the exact crop from the metadata of model.safetensors"


def write_config_files(
    folder: Path, config: FocalNetConfig, info: WeightsInfo, image_size: int | tuple[int, int] | None = None
) -> tuple[tuple[str, ...], WeightsInfo | None]:
    """Writes `config.json` and `preprocessor_config.json` for `FocalNetForImageClassification.from_pretrained`.

    Args:
      folder: the directory to write to.
      config: the model's config.
      info: class names and preprocessing to write.
      image_size: input size in pixels to write instead of the size in `info`. The cropped fraction stays the same.

    Returns:
      One-line notes for the user, and the info to store in the metadata of the weights file. The info is None if the
      two files express the preprocessing exactly.

    Raises:
      UserError: transformers cannot express the model, or `image_size` is given and `info` has a preprocessing that is
        not supported.
    """
    how, raw = info.preprocessing or USUAL, info.preprocessor
    if image_size is not None:
        how, raw = (info.follow() or how).at(sides(image_size)), None
    if raw is None and not info.refused:
        raw = to_transformers(how)
    size = info.image_size if image_size is None and info.image_size else how.size
    size = size[0] if size[0] == size[1] else list(size)
    (folder / CONFIG).write_text(json.dumps(transformers_config(config, size, info.classes), indent=2) + "\n")
    moved = how.moved_by(TRANSFORMERS_ROUNDING)
    if raw is None:
        why = info.refused or f"transformers has no processor that does {how.describe()}"
        if not info.refused and moved == "all":
            why += "; transformers crops one pixel further up or left"
        return (f"no {PREPROCESSOR}: {why}",), replace(info, preprocessing=how, preprocessor=None)
    (folder / PREPROCESSOR).write_text(json.dumps(dict(raw), indent=2) + "\n")
    if info.refused or moved == "none":
        return (), None
    note = f"{PREPROCESSOR}: transformers crops images of some sizes one pixel further up or left; {EXACT_CROP}"
    return (note,), replace(info, preprocessing=how, preprocessor=raw)


def transformers_config(
    config: FocalNetConfig, image_size: int | list[int], classes: Sequence[str] | None = None
) -> dict[str, Any]:
    """Returns the content of `config.json` for transformers' FocalNet.

    Args:
      config: the model's config.
      image_size: input size in pixels, as one number or `[height, width]`.
      classes: class names, or None if they are unknown.

    Raises:
      UserError: transformers cannot express the model: its focal factor is not 2, or its channels do not double from
        stage to stage.
    """
    check_factors(config, "transformers")
    names = output_names(config.num_classes, classes)
    return {
        "architectures": ["FocalNetForImageClassification"],
        "model_type": "focalnet",
        "image_size": image_size,
        "patch_size": config.patch_size,
        "num_channels": config.in_channels,
        "embed_dim": config.dims[0],
        "hidden_sizes": list(config.dims),
        "depths": list(config.depths),
        "focal_levels": list(config.levels),
        "focal_windows": [config.kernel_sizes(stage)[0] for stage in range(len(config.depths))],
        "mlp_ratio": config.mlp_ratio,
        "drop_path_rate": config.drop_path_rate,
        "hidden_dropout_prob": config.drop_rate,
        "use_conv_embed": config.use_conv_embed,
        "use_layerscale": config.use_layerscale,
        "layerscale_value": config.layerscale_value,
        "use_post_layernorm": config.use_postln,
        "use_post_layernorm_in_modulation": config.use_postln_in_modulation,
        "normalize_modulator": config.normalize_modulator,
        "layer_norm_eps": 1e-5,
        "id2label": {str(index): name for index, name in enumerate(names)},
        "label2id": {name: index for index, name in enumerate(names)},
    }


def check_factors(config: FocalNetConfig, library: str) -> None:
    """Raises `UserError` if `library`, timm or transformers, cannot express the channels or focal factor of a model.

    In both libraries, channels double from stage to stage and the focal factor is 2.
    """
    if config.dims != tuple(config.dims[0] * 2**stage for stage in range(len(config.depths))):
        raise UserError(
            f"{library} doubles the channels at every stage; this model has {config.dims}: write it with --to orbax"
        )
    if any(k[1] - k[0] != 2 for k in map(config.kernel_sizes, range(len(config.depths))) if len(k) > 1):
        raise UserError(
            f"{library} has a focal factor of 2; this model has {config.focal_factor}: write it with --to orbax"
        )


# Option of `FocalNetConfig` and expected type by key of transformers' config.
_OPTIONS = {
    "use_post_layernorm": ("use_postln", bool),
    "normalize_modulator": ("normalize_modulator", bool),
    "use_conv_embed": ("use_conv_embed", bool),
    "use_layerscale": ("use_layerscale", bool),
    "use_post_layernorm_in_modulation": ("use_postln_in_modulation", bool),
    "layerscale_value": ("layerscale_value", float),
    "embed_dim": ("embed_dim", int),
    "patch_size": ("patch_size", int),
    "num_channels": ("in_channels", int),
    "mlp_ratio": ("mlp_ratio", float),
    "depths": ("depths", list),
    "focal_levels": ("focal_levels", list),
    "focal_windows": ("focal_windows", list),
    "drop_path_rate": ("drop_path_rate", float),
    "hidden_dropout_prob": ("drop_rate", float),
}
# transformers' defaults for keys that may be missing and do not follow from the tensors.
_DEFAULTS = {"use_post_layernorm": False, "normalize_modulator": False}
# Keys for which this package supports only one value.
_FIXED = {"hidden_act": "gelu", "layer_norm_eps": 1e-5}


def transformers_options(folder: Path) -> dict[str, Any]:
    """Returns the fields of `FocalNetConfig` in a directory's `config.json`.

    The result is empty if the file is missing or its model is not a FocalNet.

    Raises:
      UserError: the file is damaged, or has a value that is invalid or not supported.
    """
    path, stated = _config_of_a_focalnet(folder)
    return options_in_config(stated, path)


def options_in_config(stated: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Returns the fields of `FocalNetConfig` in the config of transformers' FocalNet, which was read from `path`.

    Raises the errors of `transformers_options`.
    """
    for key, fixed in _FIXED.items():
        if stated.get(key, fixed) != fixed:
            raise UserError(f"{path} has {key}={stated[key]}; this package supports only {fixed}")
    options = {}
    for key, (name, kind) in _OPTIONS.items():
        value = stated.get(key, _DEFAULTS.get(key) if stated else None)
        if type(value) is int and kind is float and abs(value) < 2**53:
            value = float(value)
        if value is not None and type(value) is not kind:
            raise UserError(f"{path}: {key} is {value!r}; expected {kind.__name__}")
        if kind is list and value is not None and isinstance(stated.get("depths"), list):
            value = value[: len(stated["depths"])]  # transformers' defaults have four values for any number of stages
        if value is not None:
            options[name] = value
    return options


def _config_of_a_focalnet(folder: Path) -> tuple[Path, dict[str, Any]]:
    """Returns the path and content of a directory's `config.json`. The content is {} if it is not for a FocalNet."""
    path = folder / CONFIG
    stated = read_json(path) if path.is_file() else {}
    return path, stated if stated.get("model_type") == "focalnet" else {}


def transformers_info(folder: Path, num_classes: int) -> WeightsInfo:
    """Returns the class names and preprocessing in the files that transformers saves with a model.

    Raises:
      UserError: class names or input size are invalid, or the number of names is not `num_classes`.
    """
    path, config = _config_of_a_focalnet(folder)
    classes = classes_in_config(path, config.get("id2label"), num_classes) if num_classes else None
    size = _size(path, config.get("image_size"))
    info = WeightsInfo(classes, preprocessing=None if size is None else USUAL.at(size), image_size=size)
    if not config and path.is_file():  # the config is for a different model
        return info
    for name in (PREPROCESSOR, "processor_config.json"):
        if (folder / name).is_file():
            raw = read_json(folder / name)
            if name == PREPROCESSOR or isinstance(raw.get("image_processor"), dict):
                return with_preprocessor(info, raw, str(folder / name))
    return info


def classes_in_config(path: Path, labels: Any, count: int) -> tuple[str, ...] | None:
    """Returns the class names in `labels`, the value of `id2label` in the config at `path`.

    Returns None if `labels` is None or has only placeholders such as LABEL_0.

    Raises:
      UserError: `labels` does not have exactly one name for each of `count` classes.
    """
    if labels is None:
        return None
    if not isinstance(labels, dict) or not all(isinstance(name, str) for name in labels.values()):
        raise UserError(f"{path}: id2label is {str(labels)[:60]!r}; expected an object with a string for every class")
    if labels.keys() != {str(index) for index in range(count)}:
        keys = abbreviated(sorted(labels, key=lambda key: (len(key), key))) or "none"
        raise UserError(
            f"{path}: the keys of id2label are {keys}; expected 0 to {count - 1}, one for each class of the classifier"
        )
    names = tuple(labels[str(index)] for index in range(count))  # the file may list them in any order
    return None if names == tuple(f"LABEL_{index}" for index in range(count)) else names


def label_conflicts(folder: Path) -> list[str]:
    """Returns a note if `label2id` and `id2label` in a directory's `config.json` differ. `id2label` is used."""
    path, config = _config_of_a_focalnet(folder)
    names, numbers = config.get("id2label"), config.get("label2id")
    if not isinstance(names, dict) or not isinstance(numbers, dict):
        return []
    for name, number in numbers.items():
        if (other := names.get(str(number))) != name and isinstance(other, str):
            return [f"{path}: class {number} is {other!r} in id2label, but {name!r} in label2id; id2label is used"]
    return []


def _size(path: Path, size: Any) -> tuple[int, int] | None:
    both = size if isinstance(size, list) else [size, size]
    if size is None:
        return None
    if len(both) != 2 or not all(map(is_side, both)):
        raise UserError(f"{path}: image_size is {size!r}; expected one number, or height and width, in pixels")
    return tuple(both)
