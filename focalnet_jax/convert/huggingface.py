"""The files beside the weights in a Hugging Face model directory."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from focalnet_jax.convert.files import read_json
from focalnet_jax.data.class_lists import class_list, class_names
from focalnet_jax.data.statistics import IMAGENET_MEAN, IMAGENET_STD
from focalnet_jax.errors import UserError
from focalnet_jax.model import FocalNetConfig

BICUBIC = 3  # Pillow's number for it, which Hugging Face uses


def write_metadata(folder: Path, config: FocalNetConfig, image_size: int, classes: Sequence[str] | None = None) -> None:
    """`config.json` and `preprocessor_config.json` that `FocalNetForImageClassification.from_pretrained` reads."""
    (folder / "config.json").write_text(json.dumps(model_config(config, image_size, classes), indent=2) + "\n")
    (folder / "preprocessor_config.json").write_text(json.dumps(_preprocessor(image_size), indent=2) + "\n")


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
    names = _labels(config.num_classes, classes)
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


def _labels(count: int, classes: Sequence[str] | None) -> list[str]:
    """A name a class: what is known, ImageNet's where their number or their synset ids say so, else LABEL_0 ..."""
    imagenet = class_list(count)
    if imagenet and (classes is None or list(classes) == [synset for synset, _ in imagenet]):
        return class_names(count)
    classes = classes or ()
    # A classifier may have more outputs than the data has classes.
    return [*classes[:count], *(f"LABEL_{index}" for index in range(len(classes), count))]


# Keys of theirs that say what a model of ours is, with the type they must have.
_OPTIONS = {
    "use_post_layernorm": ("use_postln", bool),
    "normalize_modulator": ("normalize_modulator", bool),
    "use_conv_embed": ("use_conv_embed", bool),
    "use_layerscale": ("use_layerscale", bool),
    "use_post_layernorm_in_modulation": ("use_postln_in_modulation", bool),
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
    path = folder / "config.json"
    stated = read_json(path) if path.is_file() else {}
    if stated.get("model_type") != "focalnet":  # of something else, such as a run of ours
        return {}
    for key, ours in _FIXED.items():
        if stated.get(key, ours) != ours:
            raise UserError(f"{path} states {key}={stated[key]}; this package computes {ours} only")
    told = {}
    for key, (name, kind) in _OPTIONS.items():
        value = stated.get(key, _DEFAULTS.get(key))
        if isinstance(value, int) and kind is float:
            value = float(value)
        if value is not None and type(value) is not kind:
            raise UserError(f"{path}: {key} is {value!r}; expected {kind.__name__}")
        if value is not None:
            told[name] = value
    return told


def classes_and_size(folder: Path) -> tuple[tuple[str, ...] | None, int | None]:
    """What a directory's `config.json` calls the classes, and its input size, where it says so."""
    path = folder / "config.json"
    stated = read_json(path) if path.is_file() else {}
    labels, size = stated.get("id2label"), stated.get("image_size")
    names = tuple(map(str, labels.values())) if isinstance(labels, dict) else ()
    known = any(name != f"LABEL_{index}" for index, name in enumerate(names))
    return names if known else None, size if isinstance(size, int) else None


def _preprocessor(image_size: int) -> dict[str, Any]:
    return {
        "image_processor_type": "BitImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": int(256 / 224 * image_size)},
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
