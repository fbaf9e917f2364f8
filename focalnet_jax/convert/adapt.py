"""Fitting weights to another model: another classifier, larger focal windows, more focal levels.

Another input size needs nothing: no parameter depends on it.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
from flax import nnx

from focalnet_jax.convert.weights import Weights
from focalnet_jax.data.class_lists import NUM_1K, NUM_22K, UNTRAINED_22K
from focalnet_jax.errors import UserError
from focalnet_jax.model import FocalNet, FocalNetConfig
from focalnet_jax.model.precision import get_precision

HEAD_POLICIES = ("keep", "drop", "remap")
_SURGERY = ("focal_levels", "focal_windows", "focal_factor")
# Fields that change no parameter's shape or meaning.
_FREE = ("drop_rate", "drop_path_rate", "scan_blocks", "remat", "layerscale_value")


def adapt(weights: Weights, config: FocalNetConfig, *, head: str = "keep", seed: int = 0) -> Weights:
    """`weights` as those of a model of `config`.

    Args:
      weights: what was read.
      config: the model to fill.
      head: "keep" takes the classifier as it is; "drop" starts a fresh one; "remap" takes ImageNet-1K's rows of an
        ImageNet-22K classifier, row 850 of which is fresh because that class had no images.
      seed: of what is fresh: the classifier, the kernels of added levels.

    Raises:
      UserError: the models differ in more than that, or in the number of classes without a policy for it.
    """
    if head not in HEAD_POLICIES:
        raise UserError(f"unknown head policy {head!r}; expected one of {', '.join(HEAD_POLICIES)}")
    _check_adaptable(weights.config, config)
    # Without a classifier in between, so that one of 21842 classes is never made to be thrown away.
    fresh = _fresh_params(dataclasses.replace(config, num_classes=config.num_classes), seed)
    params, notes = dict(weights.params), list(weights.notes)
    if head == "keep" and weights.config.num_classes != config.num_classes:
        raise UserError(
            f"the weights have {weights.config.num_classes} classes, the model {config.num_classes}; give a head "
            "policy: drop (start a fresh classifier) or remap (ImageNet-22K to ImageNet-1K)"
        )
    if head == "drop":
        params.pop("head", None)
        params |= {"head": fresh["head"]} if config.num_classes else {}
        notes.append(f"a fresh classifier of {config.num_classes} classes")
    if head == "remap":
        params["head"] = _remapped(params.get("head"), fresh["head"], weights.config, config)
        notes.append(f"classifier rows 0 to {NUM_1K - 1} of {NUM_22K}; row {UNTRAINED_22K}, without images, is fresh")
    params["stages"] = {
        stage: {**old, "blocks": _adapt_blocks(old["blocks"], fresh["stages"][stage]["blocks"])}
        for stage, old in params["stages"].items()
    }
    for key in _SURGERY:
        if _per_stage(weights.config, key) != _per_stage(config, key):
            notes.append(f"{key} {_per_stage(weights.config, key)} made {_per_stage(config, key)}")
    return dataclasses.replace(weights, params=params, config=config, notes=tuple(notes))


def _per_stage(config: FocalNetConfig, key: str) -> tuple[int, ...]:
    value = getattr(config, key)
    return value if isinstance(value, tuple) else (value,) * len(config.depths)


def _check_adaptable(old: FocalNetConfig, new: FocalNetConfig) -> None:
    differing = []
    for field in dataclasses.fields(FocalNetConfig):
        if field.name in (*_FREE, *_SURGERY, "num_classes"):
            continue
        ours, theirs = getattr(new, field.name), getattr(old, field.name)
        if field.name == "embed_dim":
            ours, theirs = new.dims, old.dims
        if ours != theirs:
            differing.append(f"{field.name} is {theirs} in the weights and {ours} in the model")
    if len(old.depths) == len(new.depths):
        for stage, (levels, wanted) in enumerate(zip(old.levels, new.levels, strict=True)):
            if wanted < levels:
                differing.append(f"stage {stage} has {levels} focal levels in the weights and {wanted} in the model")
    if differing:
        raise UserError(f"the weights do not fit the model: {'; '.join(differing)}")


def _fresh_params(config: FocalNetConfig, seed: int) -> Any:
    model = FocalNet(config, precision=get_precision("float32"), rngs=nnx.Rngs(seed))
    return jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(model, nnx.Param)))


def _remapped(head: Any, fresh: Any, old: FocalNetConfig, new: FocalNetConfig) -> Any:
    if (old.num_classes, new.num_classes) != (NUM_22K, NUM_1K):
        raise UserError(
            f"head policy remap goes from {NUM_22K} classes to {NUM_1K}; these weights have {old.num_classes} and the "
            f"model {new.num_classes}"
        )
    kernel, bias = head["kernel"][:, :NUM_1K].copy(), head["bias"][:NUM_1K].copy()
    kernel[:, UNTRAINED_22K], bias[UNTRAINED_22K] = fresh["kernel"][:, UNTRAINED_22K], fresh["bias"][UNTRAINED_22K]
    return {"kernel": kernel, "bias": bias}


def _adapt_blocks(old: Any, fresh: Any) -> Any:
    """Stacked blocks with kernels and gates of the fresh ones' sizes."""
    modulation, target = dict(old["modulation"]), fresh["modulation"]
    kernels = {}
    for level, new in target["focal_kernels"].items():
        known = old["modulation"]["focal_kernels"].get(level)
        # A level the weights do not have keeps its fresh kernel; its gate is zero.
        kernels[level] = new if known is None else {"kernel": resize_kernel(known["kernel"], new["kernel"].shape[1])}
    modulation["focal_kernels"] = kernels
    added = target["gates"]["bias"].shape[-1] - modulation["gates"]["bias"].shape[-1]
    modulation["gates"] = {name: _insert_gates(value, added) for name, value in modulation["gates"].items()}
    return {**old, "modulation": modulation}


def resize_kernel(kernel: np.ndarray, size: int) -> np.ndarray:
    """Depthwise kernels `[D, k, k, 1, C]` in another odd size: zeros around them, or their centre."""
    margin = (size - kernel.shape[1]) // 2
    if margin >= 0:
        return np.pad(kernel, ((0, 0), (margin, margin), (margin, margin), (0, 0), (0, 0)))
    return kernel[:, -margin:margin, -margin:margin]


def _insert_gates(value: np.ndarray, added: int) -> np.ndarray:
    """Zero gates before the last one, which is the global level's; the gates are the last axis."""
    if not added:
        return value
    zeros = np.zeros((*value.shape[:-1], added), value.dtype)
    return np.concatenate([value[..., :-1], zeros, value[..., -1:]], axis=-1)
