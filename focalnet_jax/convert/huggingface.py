"""The files beside the weights in a Hugging Face model directory."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from focalnet_jax.convert.files import read_json
from focalnet_jax.data.class_lists import labels
from focalnet_jax.data.statistics import IMAGENET_MEAN, IMAGENET_STD
from focalnet_jax.errors import UserError
from focalnet_jax.model import FocalNetConfig

BICUBIC = 3  # Pillow's number for it, which Hugging Face uses
CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"


@dataclass(frozen=True)
class Stated:
    """What a directory, or a run, says about pictures and classes beside its weights; `None` where it does not."""

    classes: tuple[str, ...] | None = None  # their names in order; () for a fresh classifier
    exact: bool = False  # whether these are the names of the data trained on, not words for people
    image_size: int | None = None  # pixels
    preprocessor: Mapping[str, Any] | None = None  # a preprocessor_config.json


def write_metadata(folder: Path, config: FocalNetConfig, stated: Stated, image_size: int | None = None) -> None:
    """`config.json` and `preprocessor_config.json` that `FocalNetForImageClassification.from_pretrained` reads.

    Args:
      folder: where to.
      config: the model's.
      stated: what goes on from the source: class names, input size, preprocessing.
      image_size: another input size, with the recipes' preprocessing.
    """
    size = image_size or stated.image_size or 224
    preprocessing = preprocessor(size) if image_size or stated.preprocessor is None else stated.preprocessor
    (folder / CONFIG).write_text(json.dumps(model_config(config, size, stated.classes), indent=2) + "\n")
    (folder / PREPROCESSOR).write_text(json.dumps(dict(preprocessing), indent=2) + "\n")


def model_config(config: FocalNetConfig, image_size: int, classes: Sequence[str] | None = None) -> dict[str, Any]:
    """The config of transformers' FocalNet; `classes` are their names where known.

    Raises:
      UserError: what it cannot express: another focal factor than 2, embeddings that do not double, no classifier.
    """
    widths = tuple(config.dims[0] * 2**stage for stage in range(len(config.depths)))
    if config.dims != widths:
        raise UserError(f"transformers doubles the channels at every stage; this model has {config.dims}")
    if any(k[1] - k[0] != 2 for k in map(config.kernel_sizes, range(len(config.depths))) if len(k) > 1):
        raise UserError(f"transformers has a focal factor of 2; this model has {config.focal_factor}")
    names = labels(config.num_classes, classes)
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


# Keys of theirs that say what a model of ours is, with the type they must have.
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
# What transformers takes for keys that are not there and that no tensor tells.
_DEFAULTS = {"use_post_layernorm": False, "normalize_modulator": False}
# What this package computes, whatever a configuration says.
_FIXED = {"hidden_act": "gelu", "layer_norm_eps": 1e-5}


def told_by_config(folder: Path) -> dict[str, Any]:
    """The options of ours that a directory's `config.json` states; empty without one of a FocalNet.

    Raises:
      UserError: it is damaged, or states what this package does not compute.
    """
    path, stated = _config_of_a_focalnet(folder)
    for key, ours in _FIXED.items():
        if stated.get(key, ours) != ours:
            raise UserError(f"{path} states {key}={stated[key]}; this package computes {ours} only")
    told = {}
    for key, (name, kind) in _OPTIONS.items():
        value = stated.get(key, _DEFAULTS.get(key) if stated else None)
        if isinstance(value, int) and kind is float:
            value = float(value)
        if value is not None and type(value) is not kind:
            raise UserError(f"{path}: {key} is {value!r}; expected {kind.__name__}")
        if kind is list and value is not None and isinstance(stated.get("depths"), list):
            value = value[: len(stated["depths"])]  # transformers' defaults are four stages long, whatever the depths
        if value is not None:
            told[name] = value
    return told


def _config_of_a_focalnet(folder: Path) -> tuple[Path, dict[str, Any]]:
    """A directory's `config.json`, empty where there is none or it is of something else, such as a run of ours."""
    path = folder / CONFIG
    stated = read_json(path) if path.is_file() else {}
    return path, stated if stated.get("model_type") == "focalnet" else {}


def stated_beside(folder: Path, num_classes: int) -> Stated:
    """What a directory says about pictures and its `num_classes` classes.

    Raises:
      UserError: class names or input size make no sense or are not those of the classifier.
    """
    path, config = _config_of_a_focalnet(folder)
    beside = folder / PREPROCESSOR
    return Stated(
        classes=_classes(path, config.get("id2label"), num_classes) if num_classes else None,
        image_size=_size(path, config.get("image_size")),
        preprocessor=read_json(beside) if config and beside.is_file() else None,
    )


def _classes(path: Path, labels: Any, count: int) -> tuple[str, ...] | None:
    if labels is None:
        return None
    if not isinstance(labels, dict) or not all(isinstance(name, str) for name in labels.values()):
        raise UserError(f"{path}: id2label is {str(labels)[:60]!r}; expected a text for every class number")
    if labels.keys() != {str(index) for index in range(count)}:
        raise UserError(f"{path}: id2label names {len(labels)} classes; the classifier has 0 to {count - 1}")
    names = tuple(labels[str(index)] for index in range(count))  # files need not list them in order
    return None if names == tuple(f"LABEL_{index}" for index in range(count)) else names


def _size(path: Path, size: Any) -> int | None:
    sides = size if isinstance(size, list) else [size, size]
    if size is None:
        return None
    if len(sides) != 2 or sides[0] != sides[1] or type(sides[0]) is not int or sides[0] < 1:
        raise UserError(f"{path}: image_size is {size!r}; expected a number of pixels")
    return sides[0]


def preprocessor(image_size: int, resized: int | None = None) -> dict[str, Any]:
    """The recipes' evaluation: shorter side to `resized` (256/224 of the size), centre crop, ImageNet's colours."""
    return {
        "image_processor_type": "BitImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": resized or int(256 / 224 * image_size)},
        "resample": BICUBIC,
        "do_center_crop": True,
        "crop_size": {"height": image_size, "width": image_size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(IMAGENET_MEAN),
        "image_std": list(IMAGENET_STD),
        "do_convert_rgb": True,
    }
