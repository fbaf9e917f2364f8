"""The config.json of a timm model directory: preprocessing and class names, read and written."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from focalnet_jax.convert.huggingface import CONFIG, WeightsInfo
from focalnet_jax.convert.preprocessors import PREPROCESSING_KEYS, from_timm, to_timm
from focalnet_jax.convert.recognise import released_name
from focalnet_jax.data.preprocessing import USUAL
from focalnet_jax.errors import UserError
from focalnet_jax.model import FocalNetConfig, variant_config


def is_timms(config: Mapping[str, Any]) -> bool:
    """Whether a `config.json` is one that timm writes for a FocalNet, in its old flat form too."""
    return str(config.get("architecture", "")).startswith("focalnet")


def stated_by_timm(config: Mapping[str, Any], num_classes: int, place: str) -> WeightsInfo:
    """Returns what timm's `config.json` says about pictures and `num_classes` classes.

    Raises:
      UserError: class names make no sense or are not those of the classifier.
    """
    nested = config.get("pretrained_cfg")
    inner = nested if isinstance(nested, Mapping) else config  # the old form is flat
    names, descriptions = (config.get(key, inner.get(key)) for key in ("label_names", "label_descriptions"))
    names = config.get("labels", inner.get("labels")) if names is None else names  # its former name
    classes = _class_names(names, num_classes, place) if num_classes else None
    stated = WeightsInfo(classes, words=_words(classes, descriptions, place))
    if not any(inner.get(key) is not None for key in PREPROCESSING_KEYS):
        return stated
    try:
        return replace(stated, preprocessing=from_timm(inner, place))
    except UserError as error:  # raised where pictures are prepared: the weights are good without
        return replace(stated, refused=str(error))


def _class_names(names: Any, count: int, place: str) -> tuple[str, ...] | None:
    if names is None:
        return None
    named = dict(enumerate(names)) if isinstance(names, list) else names
    if not isinstance(named, Mapping) or not all(isinstance(name, str) for name in named.values()):
        raise UserError(f"{place}: label_names is {str(names)[:60]!r}; expected a text for every class")
    named = {str(index): name for index, name in named.items()}
    beyond = sorted(named.keys() - {str(index) for index in range(count)})
    if beyond:
        raise UserError(f"{place}: label_names names class {beyond[0][:40]}; the classifier has 0 to {count - 1}")
    return tuple(named.get(str(index), f"LABEL_{index}") for index in range(count))


def _words(classes: tuple[str, ...] | None, descriptions: Any, place: str) -> tuple[str, ...] | None:
    """What people call the classes: a description of each name."""
    if classes is None or not descriptions:
        return None
    if not isinstance(descriptions, Mapping) or not all(isinstance(text, str) for text in descriptions.values()):
        raise UserError(f"{place}: label_descriptions is {str(descriptions)[:60]!r}; expected a text for every name")
    return tuple(descriptions.get(name, name) for name in classes)


# Options of ours that timm's model takes by another name, beside those of the same name.
_ARGUMENTS = {
    "use_conv_embed": "use_overlap_down",
    "use_postln": "use_post_norm",
    "use_postln_in_modulation": "use_post_norm_in_modulation",
    "normalize_modulator": "normalize_modulator",
}


def told_by_timm(config: Mapping[str, Any], said: Collection[str] = ()) -> dict[str, bool]:
    """Returns the options of ours that shapes do not tell, as `model_args` state them or timm's variants have them.

    Args:
      config: the content of `config.json`.
      said: options that the user states, for which no default is taken.

    Raises:
      UserError: they state what this package does not compute.
    """
    if not is_timms(config):
        return {}
    arguments = config.get("model_args")
    arguments = arguments if isinstance(arguments, Mapping) else {}
    if arguments.get("global_pool", "avg") != "avg":
        pool = str(arguments["global_pool"])[:60]
        raise UserError(f"{CONFIG} states global_pool={pool}; this package computes avg only")
    if "normalize_modulator" not in said:
        arguments = {"normalize_modulator": False} | dict(arguments)  # timm's default, of all its variants
    told = {ours: arguments.get(_ARGUMENTS[ours]) for ours in ("use_postln", "normalize_modulator")}
    return {ours: value for ours, value in told.items() if isinstance(value, bool)}


def _is_released(config: FocalNetConfig, name: str) -> bool:
    """Whether timm's function `name` makes this model, given `normalize_modulator`."""
    return released_name(replace(config, normalize_modulator=variant_config(name).normalize_modulator)) == name


def write_timm_config(
    folder: Path, config: FocalNetConfig, name: str | None, stated: WeightsInfo
) -> tuple[tuple[str, ...], WeightsInfo | None]:
    """Writes the `config.json` that `timm.create_model("local-dir:FOLDER", pretrained=True)` reads.

    timm builds released variants alone by name; of another model, `model_args` are the arguments of its `FocalNet`.

    Args:
      folder: where to.
      config: the model's, which timm's FocalNet can express.
      name: the released variant, if it is one.
      stated: class names and preprocessing.

    Returns:
      What a reader should know, one line each; and what the file does not hold because timm cannot do it, or None.
    """
    how = stated.preprocessing or USUAL
    prepared = None if stated.refused else to_timm(how)
    name = name if name and _is_released(config, name) else None
    windows = [config.kernel_sizes(stage)[0] for stage in range(len(config.depths))]
    # A variant's function in timm refuses arguments that it sets itself; this one none of them sets.
    changed = {"normalize_modulator": True} if config.normalize_modulator else {}
    model_args = (
        changed
        if name
        else {
            "embed_dim": config.dims[0],
            "depths": list(config.depths),
            "mlp_ratio": config.mlp_ratio,
            "focal_levels": list(config.levels),
            "focal_windows": windows,
            "layerscale_value": config.layerscale_value if config.use_layerscale else None,
            **{theirs: getattr(config, ours) for ours, theirs in _ARGUMENTS.items()},
        }
    )
    written: dict[str, Any] = {
        "architecture": name or "focalnet_tiny_srf",
        "num_classes": config.num_classes,
        "num_features": config.dims[-1],
        "global_pool": "avg",
        "model_args": model_args,
        "pretrained_cfg": (prepared or {})
        | {"num_classes": config.num_classes, "first_conv": "stem.proj", "classifier": "head.fc"},
    }
    if stated.classes:
        written["label_names"] = list(stated.classes)
        if stated.words:
            written["label_descriptions"] = dict(zip(stated.classes, stated.words, strict=True))
    (folder / CONFIG).write_text(json.dumps(written, indent=2) + "\n")
    notes = []
    if not name:
        notes.append(
            f"timm has no name for this model: timm.models.focalnet.FocalNet(**model_args of {CONFIG}) builds it"
        )
    if not prepared:
        why = stated.refused or f"timm has no transform that does {how.describe()}"
        notes.append(f"no preprocessing in {CONFIG}: {why}")
    return tuple(notes), None if prepared else stated
