"""Reads and writes config.json of a timm model directory: preprocessing and class names."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from focalnet_jax.convert.huggingface import CONFIG, EXACT_CROP
from focalnet_jax.convert.info import WeightsInfo
from focalnet_jax.convert.preprocessors import PREPROCESSING_KEYS, TIMM_ROUNDING, from_timm, to_timm
from focalnet_jax.convert.recognise import NOT_FROM_SHAPES, released_name
from focalnet_jax.data.preprocessing import USUAL
from focalnet_jax.errors import UserError
from focalnet_jax.model import FocalNetConfig, variant_config


def is_timms(config: Mapping[str, Any]) -> bool:
    """Returns whether a `config.json` is from timm, in the current or the old flat layout, and for a FocalNet."""
    return str(config.get("architecture", "")).startswith("focalnet")


def timm_info(config: Mapping[str, Any], num_classes: int, place: str) -> WeightsInfo:
    """Returns the class names and preprocessing in timm's `config.json`.

    Args:
      config: the content of `config.json`.
      num_classes: number of outputs of the classifier.
      place: name of the file in messages.

    Raises:
      UserError: class names are invalid, or there are more than `num_classes`.
    """
    nested = config.get("pretrained_cfg")
    inner = nested if isinstance(nested, Mapping) else config  # the old layout has no pretrained_cfg
    names, descriptions = (config.get(key, inner.get(key)) for key in ("label_names", "label_descriptions"))
    names = config.get("labels", inner.get("labels")) if names is None else names  # the former name of the key
    classes = _class_names(names, num_classes, place) if num_classes else None
    info = WeightsInfo(classes, words=_words(classes, descriptions, place))
    if not any(inner.get(key) is not None for key in PREPROCESSING_KEYS):
        return info
    try:
        return replace(info, preprocessing=from_timm(inner, place))
    except UserError as error:  # only `follow` raises it, because the weights are usable without preprocessing
        return replace(info, refused=str(error))


def _class_names(names: Any, count: int, place: str) -> tuple[str, ...] | None:
    if names is None:
        return None
    named = dict(enumerate(names)) if isinstance(names, list) else names
    if not isinstance(named, Mapping) or not all(isinstance(name, str) for name in named.values()):
        raise UserError(f"{place}: label_names is {str(names)[:60]!r}; expected a list with a string for every class")
    named = {str(index): name for index, name in named.items()}
    beyond = sorted(named.keys() - {str(index) for index in range(count)})
    if beyond:
        raise UserError(
            f"{place}: label_names names class {beyond[0][:40]}; the classifier has classes 0 to {count - 1}"
        )
    return tuple(named.get(str(index), f"LABEL_{index}") for index in range(count))


def _words(classes: tuple[str, ...] | None, descriptions: Any, place: str) -> tuple[str, ...] | None:
    """Returns a description of each class, or None if there are no descriptions.

    The name of a class replaces a missing description.
    """
    if classes is None or not descriptions:
        return None
    if not isinstance(descriptions, Mapping) or not all(isinstance(text, str) for text in descriptions.values()):
        raise UserError(
            f"{place}: label_descriptions is {str(descriptions)[:60]!r}; expected an object that maps class names to "
            "strings"
        )
    return tuple(descriptions.get(name, name) for name in classes)


# Arguments of timm's FocalNet by option of `FocalNetConfig`.
_ARGUMENTS = {
    "use_conv_embed": "use_overlap_down",
    "use_postln": "use_post_norm",
    "use_postln_in_modulation": "use_post_norm_in_modulation",
    "normalize_modulator": "normalize_modulator",
}


def timm_options(config: Mapping[str, Any], given: Collection[str] = ()) -> dict[str, bool]:
    """Returns the model options that shapes do not determine, from `model_args` or timm's defaults.

    Args:
      config: the content of `config.json`.
      given: names of the options given by the user. timm's defaults are not used for these options.

    Raises:
      UserError: the config has a value that this package does not support.
    """
    if not is_timms(config):
        return {}
    arguments = config.get("model_args")
    arguments = arguments if isinstance(arguments, Mapping) else {}
    if arguments.get("global_pool", "avg") != "avg":
        pool = str(arguments["global_pool"])[:60]
        raise UserError(f"{CONFIG} has global_pool={pool}; this package supports only avg")
    if "normalize_modulator" not in given:
        arguments = {"normalize_modulator": False} | dict(arguments)  # timm's default for all its variants
    options = {option: arguments.get(_ARGUMENTS[option]) for option in NOT_FROM_SHAPES}
    return {option: value for option, value in options.items() if isinstance(value, bool)}


def timm_name(config: FocalNetConfig, name: str | None) -> str | None:
    """Returns `name` if timm's function `name` can build this model, given `normalize_modulator`; otherwise None."""
    if not name:
        return None
    usual = variant_config(name).normalize_modulator
    return name if released_name(replace(config, normalize_modulator=usual)) == name else None


def timm_arguments(config: FocalNetConfig) -> dict[str, Any]:
    """Returns the arguments with which timm's `FocalNet` builds this model, except those of the classifier."""
    return {
        "embed_dim": config.dims[0],
        "depths": list(config.depths),
        "mlp_ratio": config.mlp_ratio,
        "focal_levels": list(config.levels),
        "focal_windows": [config.kernel_sizes(stage)[0] for stage in range(len(config.depths))],
        "layerscale_value": config.layerscale_value if config.use_layerscale else None,
        **{argument: getattr(config, option) for option, argument in _ARGUMENTS.items()},
    }


def write_timm_config(
    folder: Path, config: FocalNetConfig, name: str | None, info: WeightsInfo
) -> tuple[tuple[str, ...], WeightsInfo | None]:
    """Writes the `config.json` that `timm.create_model("local-dir:FOLDER", pretrained=True)` reads.

    timm builds only released variants by name. For other models, `model_args` has the arguments of timm's `FocalNet`.

    Args:
      folder: the directory to write to.
      config: the model's config, valid for timm's FocalNet.
      name: name of the released variant, or None.
      info: class names and preprocessing to write.

    Returns:
      One-line notes for the user, and the info to store in the metadata of the weights file. The info is None if
      `config.json` expresses the preprocessing exactly.
    """
    how = info.preprocessing or USUAL
    prepared = None if info.refused else to_timm(how)
    name = timm_name(config, name)
    # timm's functions for variants reject arguments that they set themselves; normalize_modulator is not among these.
    changed = {"normalize_modulator": True} if config.normalize_modulator else {}
    model_args = changed if name else timm_arguments(config)
    written: dict[str, Any] = {
        "architecture": name or "focalnet_tiny_srf",
        "num_classes": config.num_classes,
        "num_features": config.dims[-1],
        "global_pool": "avg",
        "model_args": model_args,
        "pretrained_cfg": (prepared or {})
        | {"num_classes": config.num_classes, "first_conv": "stem.proj", "classifier": "head.fc"},
    }
    if info.classes:
        written["label_names"] = list(info.classes)
        if info.words:
            written["label_descriptions"] = dict(zip(info.classes, info.words, strict=True))
    (folder / CONFIG).write_text(json.dumps(written, indent=2) + "\n")
    notes = []
    if not name:
        notes.append(
            "timm.create_model has no name for this model: load model.safetensors into timm.models.focalnet.FocalNet("
            f"num_classes={config.num_classes}, **model_args of {CONFIG})"
        )
    moved = how.moved_by(TIMM_ROUNDING)
    if not prepared:
        why = info.refused or f"timm has no transform that does {how.describe()}"
        if not info.refused and moved == "all":
            why += "; timm crops one pixel further down or right"
        notes.append(f"no preprocessing in {CONFIG}: {why}")
    elif moved == "some":
        notes.append(f"{CONFIG}: timm crops images of some sizes one pixel further down or right; {EXACT_CROP}")
    return tuple(notes), None if prepared and moved == "none" else info
