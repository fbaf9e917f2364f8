"""The config.json of a timm model directory: preprocessing and class names, read and written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from focalnet_jax.convert.huggingface import Stated
from focalnet_jax.convert.preprocessors import from_timm
from focalnet_jax.errors import UserError


def is_timms(config: Mapping[str, Any]) -> bool:
    """Whether a `config.json` is one that timm writes for a FocalNet, in its old flat form too."""
    return str(config.get("architecture", "")).startswith("focalnet")


def stated_by_timm(config: Mapping[str, Any], num_classes: int, place: str) -> Stated:
    """Returns what timm's `config.json` says about pictures and `num_classes` classes.

    Raises:
      UserError: class names make no sense or are not those of the classifier.
    """
    nested = config.get("pretrained_cfg")
    inner = nested if isinstance(nested, Mapping) else config  # the old form is flat
    names, descriptions = (config.get(key, inner.get(key)) for key in ("label_names", "label_descriptions"))
    names = config.get("labels", inner.get("labels")) if names is None else names  # its former name
    classes = _class_names(names, num_classes, place) if num_classes else None
    stated = Stated(classes, words=_words(classes, descriptions, place))
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
