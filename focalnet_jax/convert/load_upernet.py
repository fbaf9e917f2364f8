"""Loads weights into UPerNet: a whole UPerNet, or a FocalNet as its backbone."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np

from focalnet_jax.convert.adapt import adapt
from focalnet_jax.convert.load import Loaded, load_backbone, warn_non_finite
from focalnet_jax.convert.mapping import check_keys
from focalnet_jax.convert.read_upernet import read_upernet
from focalnet_jax.convert.recognise import NOT_FROM_SHAPES
from focalnet_jax.convert.upernet import Heads, UPerNetWeights, backbone_weights
from focalnet_jax.convert.weights_task import weights_task
from focalnet_jax.errors import UserError
from focalnet_jax.model import FocalNetConfig
from focalnet_jax.parameters import named_leaves, nested
from focalnet_jax.settings.tasks import TASKS

_AUXILIARY = "auxiliary_head/"


def load_upernet(
    path: str,
    config: FocalNetConfig,
    heads: Heads,
    like: Any,
    *,
    head: str = "keep",
    evaluated: bool = False,
    seed: int = 0,
    which: str | None = None,
) -> Loaded:
    """Returns the weights at `path` as variables of UPerNet.

    Variables that the weights lack are missing in the result, and the caller initialises them:
    - the last layers of the heads, if `head` is "drop";
    - an auxiliary head (which is zero if `evaluated`);
    - the heads and the norms of the backbone's outputs, if the weights are those of a FocalNet.

    Args:
      path: path of the weights, see `load_model`.
      config: config of the backbone, with the number of classes.
      heads: options of the heads.
      like: the model's variables, `params` and `statistics`, as arrays or shapes. The result has the same shardings.
      head: "keep" or "drop".
      evaluated: whether the model is only evaluated. Then the weights must have all variables that an evaluation uses,
        and focal windows and levels must be equal.
      seed: seed of initialised parameters of the backbone.
      which: selection among several weights, see `read_weights`.

    Raises:
      UserError: `path` has no readable weights, or the weights do not fit the model.
    """
    if head not in ("keep", "drop"):
        raise UserError(f"init_head={head} is for classifiers of ImageNet; expected keep or drop for segmentation")
    if weights_task(path, which) == TASKS[0]:
        if evaluated:
            raise UserError(
                f"{path} has no UPerNet: these are weights of classification; train segmentation from them with "
                f"--config.init_from={path}, or evaluate weights of segmentation"
            )
        return load_backbone(path, config, like.params, "backbone/", seed=seed, which=which)
    assumed = {key: getattr(config, key) for key in NOT_FROM_SHAPES}
    given = read_upernet(path, assumed=assumed, scales=heads.pool_scales, which=which, flag="--config.model.")
    weights = _adapted(given, config, heads, head, evaluated=evaluated, seed=seed)
    warn_non_finite(path, weights.params)
    params, statistics = (
        _placed(tree, wanted, evaluated=evaluated)
        for tree, wanted in ((weights.params, like.params), (weights.statistics, like.statistics))
    )
    source = f"{path} ({'; '.join((weights.format, weights.dtype, *weights.notes))})"
    return Loaded(params, source, weights.info, statistics)


def _adapted(
    weights: UPerNetWeights, config: FocalNetConfig, heads: Heads, head: str, *, evaluated: bool, seed: int
) -> UPerNetWeights:
    """Returns the weights with the backbone adapted to `config`.

    With `head` "drop", the last layers of the heads are left out. The auxiliary head is left out if that of the model
    has a different number of channels.
    """
    _check_heads(weights, config, heads, head, evaluated=evaluated)
    whole, statistics = named_leaves(weights.params), named_leaves(weights.statistics)
    plain = dataclasses.replace(config, num_classes=0)
    backbone = adapt(backbone_weights(weights), plain, surgery=not evaluated, seed=seed)
    own = ("backbone/output_norms/", "decode_head/", _AUXILIARY)
    leaves = {name: leaf for name, leaf in whole.items() if name.startswith(own)}
    leaves |= {
        f"backbone/{name}": leaf for name, leaf in named_leaves(backbone.params).items() if not name.startswith("norm/")
    }
    notes, info = list(backbone.notes), weights.info
    if head == "drop":
        leaves = {name: leaf for name, leaf in leaves.items() if "/conv_seg/" not in name}
        notes.append(f"new last layers of the heads (conv_seg) for {config.num_classes} classes")
        info = dataclasses.replace(info, classes=(), words=None, palette=None)
    if weights.heads.auxiliary_channels != heads.auxiliary_channels:
        leaves, statistics = (
            {name: leaf for name, leaf in part.items() if not name.startswith(_AUXILIARY)}
            for part in (leaves, statistics)
        )
        if not evaluated:
            notes.append("a new auxiliary head" if heads.auxiliary_channels else "the auxiliary head was left out")
    return dataclasses.replace(
        weights, params=nested(leaves), statistics=nested(statistics), notes=tuple(notes), info=info
    )


def _check_heads(weights: UPerNetWeights, config: FocalNetConfig, heads: Heads, head: str, *, evaluated: bool) -> None:
    """Raises `UserError` if the heads of the weights and of the model do not fit."""
    pairs = [("channels", weights.heads.channels, heads.channels)]
    pairs.append(("pool_scales", weights.heads.pool_scales, heads.pool_scales))
    if not evaluated and weights.heads.auxiliary_channels and heads.auxiliary_channels:
        pairs.append(("auxiliary_channels", weights.heads.auxiliary_channels, heads.auxiliary_channels))
    for key, given, wanted in pairs:
        if given != wanted:
            raise UserError(
                f"the weights do not fit the model: head.{key} is {given} in the weights and {wanted} in the model: "
                f'give "--config.head.{key}={given}"'
            )
    given, wanted = weights.config.num_classes, config.num_classes
    if head == "keep" and given != wanted:
        advice = "" if evaluated else ", or --config.init_head=drop to train new last layers of the heads"
        raise UserError(
            f"the weights have {given} classes, the model {wanted}: give --config.model.num_classes={given}{advice}"
        )


def _placed(tree: Any, like: Any, *, evaluated: bool) -> Any:
    """Returns the arrays of `tree` with the shardings of `like`.

    For an evaluation, which does not use the auxiliary head, missing arrays of the auxiliary head are zeros, and other
    missing arrays are an error. Otherwise, missing arrays are missing in the result.
    """
    leaves, wanted = named_leaves(tree), named_leaves(like)
    if evaluated:
        leaves |= {
            name: np.zeros(leaf.shape, leaf.dtype)
            for name, leaf in wanted.items()
            if name.startswith(_AUXILIARY) and name not in leaves
        }
    shapes = {name: tuple(leaf.shape) for name, leaf in wanted.items() if evaluated or name in leaves}
    check_keys(shapes, {name: tuple(leaf.shape) for name, leaf in leaves.items()})
    return nested({name: jax.device_put(leaf, wanted[name].sharding) for name, leaf in leaves.items()})
