"""Loads weights into a detector: a whole detector, or a FocalNet as its backbone."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax

from focalnet_jax.convert.adapt import check_adaptable
from focalnet_jax.convert.detectors import TASK, DetectorHead, DetectorWeights
from focalnet_jax.convert.load import Loaded, load_backbone, warn_non_finite
from focalnet_jax.convert.mapping import check_keys
from focalnet_jax.convert.read_detector import read_detector
from focalnet_jax.convert.recognise import NOT_FROM_SHAPES
from focalnet_jax.convert.start import Start
from focalnet_jax.convert.weights_task import weights_task
from focalnet_jax.errors import UserError
from focalnet_jax.model import FocalNetConfig
from focalnet_jax.parameters import named_leaves, nested

_FLAG = "--config.model."


def is_detector(path: str | Path, which: str | None = None) -> bool:
    """Returns whether the weights at `path` are those of a detector. The errors are those of `read_weights`."""
    return weights_task(path, which) == TASK


def read_detector_start(
    path: str,
    which: str | None,
    canvas: tuple[int, int],
    name: str | None = None,
    options: Mapping[str, bool] | None = None,
    assumed: Mapping[str, bool] | None = None,
) -> Start:
    """Returns the architecture, canvas and class names stored with the weights of a detector.

    Args:
      path: path of the weights, see `read_weights`.
      which: selection among several weights, see `read_weights`.
      canvas: height and width of the canvas in pixels, used if none is stored.
      name: name of the variant, or None to recognise it.
      options: options of the backbone given by the user.
      assumed: options of the backbone in the target model.
    """
    weights = read_detector(path, name, options, assumed, which=which, flag=_FLAG)
    how = weights.info.preprocessing
    size = canvas if how is None or weights.info.normalization_only else how.size
    return Start(weights.name, weights.config, size, weights.info.classes)


def load_detector(
    path: str,
    config: FocalNetConfig,
    head: DetectorHead,
    like: Any,
    *,
    init: str = "keep",
    evaluated: bool = False,
    seed: int = 0,
    which: str | None = None,
) -> Loaded:
    """Returns the weights at `path` as variables of a detector.

    Variables that the weights lack are missing in the result, and the caller initialises them:
    - the last layers of the head, if `init` is "drop";
    - the neck, the head and the norms of the backbone's outputs, if the weights are those of a FocalNet.

    Args:
      path: path of the weights, see `load_model`.
      config: config of the backbone, with the number of classes.
      head: options of neck and head.
      like: the model's variables, `params` and `statistics`, as arrays or shapes. The result has the same shardings.
      init: "keep" to keep or "drop" to leave out the last layers of the head. For an evaluation, they are kept.
      evaluated: whether the model is only evaluated. Then the weights must have all variables.
      seed: seed of initialised parameters of the backbone.
      which: selection among several weights, see `read_weights`.

    Raises:
      UserError: `path` has no readable weights, or the weights do not fit the model.
    """
    if init not in ("keep", "drop"):
        raise UserError(f"init_head={init} is for classifiers of ImageNet; expected keep or drop for detection")
    if not is_detector(path, which):
        if evaluated:
            raise UserError(
                f"{path} has no detector: train detection from these weights with --config.init_from={path}, or "
                "evaluate weights of detection"
            )
        return load_backbone(path, config, like.params, "backbone/", seed=seed, which=which)
    assumed = {key: getattr(config, key) for key in NOT_FROM_SHAPES}
    weights = read_detector(path, assumed=assumed, which=which, flag=_FLAG)
    check_adaptable(weights.config, dataclasses.replace(config, num_classes=weights.config.num_classes), surgery=False)
    _check_head(weights, config, head, init, evaluated=evaluated)
    leaves, info, notes = named_leaves(weights.params), weights.info, list(weights.notes)
    if init == "drop" and not evaluated:
        last = re.compile(head.architecture.last)
        notes.append(f"new last layers ({_layers(filter(last.match, leaves))}) for {config.num_classes} classes")
        leaves = {name: leaf for name, leaf in leaves.items() if not last.match(name)}
        info = dataclasses.replace(info, classes=(), words=None)
    warn_non_finite(path, weights.params)
    params, statistics = (
        _placed(tree, wanted, whole=evaluated or init == "keep")
        for tree, wanted in ((leaves, like.params), (named_leaves(weights.statistics), like.statistics))
    )
    source = f"{path} ({'; '.join((weights.format, weights.dtype, *notes))})"
    return Loaded(params, source, info, statistics)


def _layers(names: Iterable[str]) -> str:
    """Returns the comma-separated names of the layers with these parameters, with * for the stages of a cascade."""
    layers = (name.rpartition("/")[0].replace("/", ".") for name in names)
    return ", ".join(sorted({re.sub(r"\.\d+\.", ".*.", layer) for layer in layers}))


def _check_head(
    weights: DetectorWeights, config: FocalNetConfig, head: DetectorHead, init: str, *, evaluated: bool
) -> None:
    """Raises `UserError` if the heads of the weights and of the model differ."""
    for key, wanted in head.to_dict().items():
        if (given := getattr(weights.head, key)) != wanted:
            raise UserError(
                f"the weights do not fit the model: head.{key} is {given} in the weights and {wanted} in the model: "
                f"give --config.head.{key}={given}"
            )
    given, wanted = weights.config.num_classes, config.num_classes
    if (evaluated or init == "keep") and given != wanted:
        advice = "" if evaluated else ", or --config.init_head=drop to train new last layers"
        raise UserError(
            f"the weights have {given} classes, the model {wanted}: give --config.model.num_classes={given}{advice}"
        )


def _placed(leaves: dict[str, Any], like: Any, *, whole: bool) -> Any:
    """Returns the arrays with the shardings of `like`. If `whole`, no array of `like` may be missing in `leaves`."""
    wanted = named_leaves(like)
    shapes = {name: tuple(leaf.shape) for name, leaf in wanted.items() if whole or name in leaves}
    check_keys(shapes, {name: tuple(leaf.shape) for name, leaf in leaves.items()})
    return nested({name: jax.device_put(leaf, wanted[name].sharding) for name, leaf in leaves.items()})
