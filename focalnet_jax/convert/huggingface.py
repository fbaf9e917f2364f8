"""The files beside the weights in a Hugging Face model directory."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from focalnet_jax.convert.files import read_json
from focalnet_jax.convert.preprocessors import from_transformers, to_transformers
from focalnet_jax.data.class_lists import labels
from focalnet_jax.data.preprocessing import USUAL, Preprocessing, from_dict, is_side, sides
from focalnet_jax.errors import UserError
from focalnet_jax.model import FocalNetConfig

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"


@dataclass(frozen=True)
class WeightsInfo:
    """What files beside weights, or a run, say about pictures and classes; `None` where they do not."""

    classes: tuple[str, ...] | None = None  # their names in order; () for a fresh classifier
    exact: bool = False  # whether these are the names of the data trained on, not words for people
    words: tuple[str, ...] | None = None  # what people call the classes, where that is stated beside their names
    preprocessing: Preprocessing | None = None
    normalization_only: bool = False  # whether only its normalization is stated, and the rest is the usual
    refused: str = ""  # why the preprocessing that is stated cannot be followed
    preprocessor: Mapping[str, Any] | None = None  # the preprocessor_config.json that states it
    image_size: tuple[int, int] | None = None  # of a config.json; pictures have the size of the preprocessing

    def follow(self) -> Preprocessing | None:
        """Returns the preprocessing, None where none is stated; raises `UserError` for one that cannot be followed."""
        if self.refused:
            raise UserError(self.refused)
        return self.preprocessing

    def to_dict(self) -> dict[str, Any]:
        """Returns the same as JSON holds it, see `stated_from`."""
        return asdict(self)


def stated_from(values: Mapping[str, Any], place: str) -> WeightsInfo:
    """Returns what `WeightsInfo.to_dict` wrote, also before preprocessing had a form of its own."""
    names = {key: tuple(values[key]) for key in ("classes", "words") if values.get(key) is not None}
    size, raw, own = values.get("image_size"), values.get("preprocessor"), values.get("preprocessing")
    size = None if size is None else sides(size)
    stated = WeightsInfo(**names, exact=bool(values.get("exact")), image_size=size)
    if raw is not None:
        return _with_preprocessor(stated, raw, place)
    if own is not None:
        only = bool(values.get("normalization_only"))
        return replace(stated, preprocessing=from_dict(own), normalization_only=only, refused=_text(values, "refused"))
    if _text(values, "refused"):
        return replace(stated, refused=_text(values, "refused"))
    return stated if size is None else replace(stated, preprocessing=USUAL.at(size))


def _text(values: Mapping[str, Any], key: str) -> str:
    return value if isinstance(value := values.get(key), str) else ""


def _with_preprocessor(stated: WeightsInfo, raw: Mapping[str, Any], place: str) -> WeightsInfo:
    try:
        return replace(stated, preprocessor=raw, preprocessing=from_transformers(raw, place))
    except UserError as error:  # raised where pictures are prepared: the weights are good without
        return replace(stated, preprocessor=raw, refused=str(error))


def write_metadata(
    folder: Path, config: FocalNetConfig, stated: WeightsInfo, image_size: int | tuple[int, int] | None = None
) -> tuple[tuple[str, ...], WeightsInfo | None]:
    """Writes `config.json` and `preprocessor_config.json` for `FocalNetForImageClassification.from_pretrained`.

    Args:
      folder: where to.
      config: the model's.
      stated: class names and preprocessing of the source, which are written too.
      image_size: another input size, at which the same share of a picture is cropped.

    Returns:
      What a reader should know, one line each; and what the files do not hold because transformers cannot do it, or
      None.
    """
    how, raw = stated.preprocessing or USUAL, stated.preprocessor
    if image_size is not None:
        how, raw = (stated.follow() or how).at(sides(image_size)), None
    if raw is None and not stated.refused:
        raw = to_transformers(how)
    size = stated.image_size if image_size is None and stated.image_size else how.size
    size = size[0] if size[0] == size[1] else list(size)
    (folder / CONFIG).write_text(json.dumps(model_config(config, size, stated.classes), indent=2) + "\n")
    if raw is None:
        why = stated.refused or f"transformers has no processor that does {how.describe()}"
        return (f"no {PREPROCESSOR}: {why}",), replace(stated, preprocessing=how, preprocessor=None)
    (folder / PREPROCESSOR).write_text(json.dumps(dict(raw), indent=2) + "\n")
    return (), None


def model_config(
    config: FocalNetConfig, image_size: int | list[int], classes: Sequence[str] | None = None
) -> dict[str, Any]:
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
        if type(value) is int and kind is float and abs(value) < 2**53:
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


def stated_beside(folder: Path, num_classes: int) -> WeightsInfo:
    """Returns what a directory's files of transformers say about pictures and its `num_classes` classes.

    Raises:
      UserError: class names or input size make no sense or are not those of the classifier.
    """
    path, config = _config_of_a_focalnet(folder)
    classes = _classes(path, config.get("id2label"), num_classes) if num_classes else None
    size = _size(path, config.get("image_size"))
    stated = WeightsInfo(classes, preprocessing=None if size is None else USUAL.at(size), image_size=size)
    if not config and path.is_file():  # what is in this directory belongs to something else
        return stated
    for name in (PREPROCESSOR, "processor_config.json"):
        if (folder / name).is_file():
            raw = read_json(folder / name)
            if name == PREPROCESSOR or isinstance(raw.get("image_processor"), dict):
                return _with_preprocessor(stated, raw, str(folder / name))
    return stated


def _classes(path: Path, labels: Any, count: int) -> tuple[str, ...] | None:
    if labels is None:
        return None
    if not isinstance(labels, dict) or not all(isinstance(name, str) for name in labels.values()):
        raise UserError(f"{path}: id2label is {str(labels)[:60]!r}; expected a text for every class number")
    if labels.keys() != {str(index) for index in range(count)}:
        raise UserError(f"{path}: id2label names {len(labels)} classes; the classifier has 0 to {count - 1}")
    names = tuple(labels[str(index)] for index in range(count))  # files need not list them in order
    return None if names == tuple(f"LABEL_{index}" for index in range(count)) else names


def _size(path: Path, size: Any) -> tuple[int, int] | None:
    both = size if isinstance(size, list) else [size, size]
    if size is None:
        return None
    if len(both) != 2 or not all(map(is_side, both)):
        raise UserError(f"{path}: image_size is {size!r}; expected pixels as a number, or height and width")
    return tuple(both)
