"""Chooses between the preprocessing stored with weights and the preprocessing of a config."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from ml_collections import FrozenConfigDict

from focalnet_jax.convert.info import WeightsInfo
from focalnet_jax.data.preprocessing import Preprocessing, from_config
from focalnet_jax.distributed.startup import is_first
from focalnet_jax.errors import UserError

_KEYS = ("image_size", "eval_resize", "eval_resize_mode", "interpolation", "mean", "std")


def weights_preprocessing(config: FrozenConfigDict, stated: WeightsInfo, named: Collection[str]) -> Preprocessing:
    """Returns the preprocessing for evaluating weights, and prints it if it differs from the config's preprocessing.

    The preprocessing stored with the weights has precedence, except for the config keys in `named`. If none is stored,
    the config's preprocessing is used.

    Raises:
      UserError: the preprocessing stored with the weights is not supported, or the keys contradict each other.
    """
    of_config, keys = from_config(config.data), [f"data.{key}" for key in _KEYS]
    named = [key for key in keys if key in named]
    if named == keys:
        return of_config
    others = ", ".join(key for key in keys if key not in named)
    try:
        of_weights = stated.follow()
    except UserError as error:
        raise UserError(
            f"{error}; to use the preprocessing of the config, give {others} on the command line"
        ) from error
    if of_weights is None:
        return of_config
    if stated.normalization_only:
        of_weights = replace(of_config, normalization=of_weights.normalization)
    followed = _combined(config, of_config, of_weights, named)
    if is_first() and followed != of_config:
        but = f" except for {', '.join(named)}" if named else ""
        print(
            f"images get the preprocessing stored with the weights{but}: {followed.describe()}; the config has "
            f"{of_config.describe()} (to use it, give {others} on the command line)"
        )
    return followed


def _combined(
    config: FrozenConfigDict, ours: Preprocessing, theirs: Preprocessing, named: Collection[str]
) -> Preprocessing:
    """Returns the weights' preprocessing with the named keys of the config."""
    if "data.image_size" in named:
        theirs = theirs.at(ours.size)
    if "data.eval_resize_mode" in named:
        theirs = replace(theirs, mode=ours.mode, fill=ours.fill)
    if {"data.eval_resize", "data.eval_resize_mode"} & set(named):
        resized = config.data.eval_resize
        data = config.data.to_dict() | {"image_size": theirs.size, "eval_resize_mode": theirs.mode}
        fitted = from_config(data | {"eval_resize": resized if "data.eval_resize" in named else None})
        theirs = replace(theirs, resized=fitted.resized, crop_pct=fitted.crop_pct)
    if "data.interpolation" in named:
        theirs = replace(theirs, interpolation=ours.interpolation)
    colours = theirs.normalization
    for key in ("mean", "std"):
        if f"data.{key}" in named:
            colours = replace(colours, **{key: getattr(ours.normalization, key)})
    return replace(theirs, normalization=colours)


def note_difference(config: FrozenConfigDict, stated: WeightsInfo, path: str) -> None:
    """Prints one line if the preprocessing of a run differs from the one stored with its initial weights."""
    ours, theirs = from_config(config.data), stated.preprocessing
    if theirs is not None and stated.normalization_only:
        theirs = replace(ours, normalization=theirs.normalization)
    if not is_first() or (theirs == ours and not stated.refused):
        return
    if stated.refused:
        print(f"note: {stated.refused}; the run uses the preprocessing of the config: {ours.describe()}")
    elif theirs is not None:
        print(
            f"note: {path} has another preprocessing, {theirs.describe()}; the run uses the preprocessing of the "
            f"config: {ours.describe()}"
        )
