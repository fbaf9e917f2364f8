"""Adapts weights to a model with a different classifier, larger focal windows or more focal levels.

A different input size needs no change, because no parameter depends on the input size.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np
from flax import nnx

from focalnet_jax.convert.mapping import param_shapes
from focalnet_jax.convert.weights import Weights
from focalnet_jax.data.class_lists import NUM_1K, NUM_22K, UNTRAINED_22K, class_list, class_names
from focalnet_jax.errors import UserError
from focalnet_jax.model import FocalNet, FocalNetConfig
from focalnet_jax.model.precision import get_precision
from focalnet_jax.ops.implementations import IMPLEMENTATIONS
from focalnet_jax.parameters import named_leaves, with_leaves

HEAD_POLICIES = ("keep", "drop", "remap")
_HEAD, _HEAD_BIAS = "head/kernel", "head/bias"
_SURGERY = ("focal_levels", "focal_windows", "focal_factor")
# Fields that affect neither the shape nor the meaning of a parameter.
_FREE = ("drop_rate", "drop_path_rate", "scan_blocks", "remat", *IMPLEMENTATIONS, "layerscale_value")


def adapt(
    weights: Weights, config: FocalNetConfig, *, head: str = "keep", surgery: bool = True, seed: int = 0
) -> Weights:
    """Returns `weights` adapted to a model of `config`.

    Args:
      weights: the weights that were read.
      config: config of the target model.
      head: "keep" keeps the classifier. "drop" initialises a new classifier. "remap" selects the rows of ImageNet-1K
        in an ImageNet-22K classifier and initialises row 850, whose class has no images in ImageNet-22K.
      surgery: whether focal windows and focal levels may grow, see `check_adaptable`. Evaluation passes False.
      seed: seed for initialising a classifier and the kernels of added levels.

    Raises:
      UserError: the models differ in other options (see `check_adaptable`) or, with "keep", in the number of classes;
        or, with "remap", the weights have no ImageNet-22K classifier in the order of its class list, or the model no
        ImageNet-1K classifier.
    """
    check_adaptable(weights.config, config, surgery=surgery)
    _check_head(weights.config.num_classes, config.num_classes, head, evaluated=not surgery)
    if head == "remap":
        _check_order(weights.info.classes)
    known = named_leaves(weights.params)
    if head == "drop":
        known = {name: value for name, value in known.items() if not name.startswith("head/")}
    target = param_shapes(config)
    shapes = named_leaves(target)
    missing = [name for name in shapes if name not in known]
    # "remap" initialises one row of the classifier.
    fresh = _fresh_leaves(config, seed, [*missing, *([_HEAD, _HEAD_BIAS] if head == "remap" else [])])
    leaves = {
        name: _fitted(name, known.get(name, fresh.get(name)), shapes[name].shape, config.use_global_level)
        for name in shapes
    }
    notes = list(weights.notes)
    if head == "drop":
        notes.append(f"a new classifier of {config.num_classes} classes" if config.num_classes else "no classifier")
    if head == "remap":
        for name in (_HEAD, _HEAD_BIAS):
            leaves[name] = known[name][..., :NUM_1K].copy()
            leaves[name][..., UNTRAINED_22K] = fresh[name][..., UNTRAINED_22K]
        notes.append(
            f"classifier rows 0 to {NUM_1K - 1} of {NUM_22K}; row {UNTRAINED_22K}, without images, is initialised"
        )
    for key in _SURGERY:
        if _stages_differ(key, weights.config, config):
            notes.append(f"{key} changed from {_per_stage(weights.config, key)} to {_per_stage(config, key)}")
    params = with_leaves(target, leaves)
    # None: the class names of a remapped classifier follow from its number of classes.
    classes = {"keep": weights.info.classes, "drop": (), "remap": None}[head]
    words = weights.info.words if head == "keep" else None
    info = dataclasses.replace(weights.info, classes=classes, words=words)
    return dataclasses.replace(weights, params=params, config=config, notes=tuple(notes), info=info)


def needs_surgery(old: FocalNetConfig, new: FocalNetConfig) -> bool:
    """Returns whether focal kernels or gates change when weights are adapted from `old` to `new`."""
    return any(_stages_differ(key, old, new) for key in _SURGERY)


def _stages_differ(key: str, old: FocalNetConfig, new: FocalNetConfig) -> bool:
    """Returns whether an option differs in any stage that both models have."""
    return any(a != b for a, b in zip(_per_stage(old, key), _per_stage(new, key), strict=False))


def _differing(key: str, old: FocalNetConfig, new: FocalNetConfig) -> str:
    return f"{key} is {getattr(old, key)} in the weights and {getattr(new, key)} in the model"


def _check_head(given: int, wanted: int, head: str, *, evaluated: bool) -> None:
    if head not in HEAD_POLICIES:
        raise UserError(f"unknown head policy {head!r}; expected one of {', '.join(HEAD_POLICIES)}")
    if head == "keep" and given != wanted and evaluated:
        advice = f"give --config.model.num_classes={given}" if given else "evaluation needs weights with a classifier"
        raise UserError(f"the weights have {given} classes, the model {wanted}: {advice}")
    if head == "keep" and given != wanted:
        raise UserError(
            f"the weights have {given} classes, the model {wanted}: use the same number, or set init_head (train.py), "
            "--head (converter) or head (load_model) to drop (a new classifier) or remap (ImageNet-22K to ImageNet-1K)"
        )
    if head == "remap" and (given, wanted) != (NUM_22K, NUM_1K):
        raise UserError(
            f"head policy remap needs weights with {NUM_22K} classes and a model with {NUM_1K}; these weights have "
            f"{given} and the model {wanted}"
        )


def _check_order(names: Sequence[str] | None) -> None:
    """Raises `UserError` if class names are known and do not follow ImageNet-22K's class list."""
    listed = [{*pair, words} for pair, words in zip(class_list(NUM_22K), class_names(NUM_22K), strict=True)]
    # Spellings differ a little between sources; a different order changes nearly every row.
    same = sum(name in known for name, known in zip(names or (), listed, strict=False))
    if names and same < 0.9 * NUM_22K:
        raise UserError(
            f"head policy remap needs ImageNet-22K's classes in the order of its class list; the {len(names)} classes "
            f"of these weights differ (the first is {names[0]!r}): train on data prepared with "
            "focalnet_jax.data.prepare, or drop the classifier"
        )


def _per_stage(config: FocalNetConfig, key: str) -> tuple[int, ...]:
    value = getattr(config, key)
    return value if isinstance(value, tuple) else (value,) * len(config.depths)


def check_adaptable(old: FocalNetConfig, new: FocalNetConfig, *, surgery: bool = True) -> None:
    """Checks that weights of `old` can be adapted to a model of `new`.

    The number of classes and options that affect no parameter may differ.

    Args:
      old: config of the weights.
      new: config of the target model.
      surgery: whether focal windows and the number of focal levels may grow.

    Raises:
      UserError: other fields differ, or a window or the number of levels would shrink, or change without `surgery`. The
        message names the fields.
    """
    differing = [] if surgery else [_differing(key, old, new) for key in _SURGERY if _stages_differ(key, old, new)]
    for field in dataclasses.fields(FocalNetConfig):
        if field.name in (*_FREE, *_SURGERY, "num_classes"):
            continue
        differs = getattr(old, field.name) != getattr(new, field.name)
        if field.name == "embed_dim":  # 16 and (16, 32) may mean the same
            differs = any(a != b for a, b in zip(old.dims, new.dims, strict=False))
        if differs:
            differing.append(_differing(field.name, old, new))
    if len(old.depths) == len(new.depths):
        for stage, (levels, wanted) in enumerate(zip(old.levels, new.levels, strict=True)):
            if wanted < levels:
                differing.append(f"stage {stage} has {levels} focal levels in the weights and {wanted} in the model")
            sizes = old.kernel_sizes(stage), new.kernel_sizes(stage)
            smaller = next((pair for pair in zip(*sizes, strict=False) if pair[1] < pair[0]), None)
            if smaller:
                differing.append(
                    f"stage {stage} has focal kernels of size {smaller[0]} in the weights and {smaller[1]} in the model"
                )
    if differing:
        raise UserError(f"the weights do not fit the model: {'; '.join(differing)}")


def _fresh_leaves(config: FocalNetConfig, seed: int, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Returns newly initialised parameters with these names; other parameters are not computed."""
    if not names:
        return {}

    def draw() -> dict[str, jax.Array]:
        model = FocalNet(config, precision=get_precision("float32"), rngs=nnx.Rngs(seed))
        leaves = named_leaves(nnx.to_pure_dict(nnx.state(model, nnx.Param)))
        return {name: leaves[name] for name in names}

    return jax.tree.map(np.asarray, jax.jit(draw)())


def _fitted(name: str, value: np.ndarray, shape: tuple[int, ...], global_level: bool) -> np.ndarray:
    """Returns a parameter with `shape`, its shape in the target model, padded with zeros where it is larger."""
    if "/focal_kernels/" in name:
        return resize_kernel(value, shape[1])
    if "/gates/" in name:
        return _insert_gates(value, shape[-1] - value.shape[-1], global_level)
    return value


def resize_kernel(kernel: np.ndarray, size: int) -> np.ndarray:
    """Pads the depthwise kernels of D blocks, `[D, k, k, 1, C]`, with zeros to `[D, size, size, 1, C]`.

    Both k and `size` are odd.
    """
    margin = (size - kernel.shape[1]) // 2
    return np.pad(kernel, ((0, 0), (margin, margin), (margin, margin), (0, 0), (0, 0)))


def _insert_gates(value: np.ndarray, added: int, global_level: bool) -> np.ndarray:
    """Inserts zero gates along the last axis, between the gates of focal levels and the gate of the global level."""
    if not added:
        return value
    zeros = np.zeros((*value.shape[:-1], added), value.dtype)
    levels = value.shape[-1] - global_level
    return np.concatenate([value[..., :levels], zeros, value[..., levels:]], axis=-1)
