"""Optimizers by name, the scales of each parameter's update, and the cosine schedule of the published recipe."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import FrozenConfigDict

from focalnet_jax.errors import UserError
from focalnet_jax.parameters import by_pattern, named_leaves, path_name, with_leaves

# Matrices and convolution kernels are named `kernel`; biases, norms and LayerScale are not and do not decay. A name
# tells what a shape cannot: the stacked blocks of a stage give every parameter a leading axis.
DECAYED = r"(^|/)kernel$"
NOT_DECAYED = r"(^|/)(bias|scale|gamma\d+)$"
_BLOCKS = re.compile(r"(^|/)stages/(\d+)/blocks/")


def cosine_schedule(
    *, peak: float, minimum: float, warmup_start: float, warmup_steps: int, total_steps: int
) -> optax.Schedule:
    """Returns a schedule with linear warm-up and a cosine over the whole run, as timm's CosineLRScheduler per step.

    Step t is the number of earlier updates. The cosine starts at step 0, not at the end of the warm-up, so the rate
    jumps slightly at the end of the warm-up. From `total_steps` on, the rate is `minimum`. A run shorter than the
    warm-up ends during the warm-up.
    """
    cosine = optax.cosine_decay_schedule(peak, total_steps, alpha=minimum / peak if peak else 0.0)
    if not warmup_steps:
        return cosine
    slope = (peak - warmup_start) / warmup_steps
    # optax.linear_schedule counts down from the peak, which loses the digits of a small start in float32.
    return optax.join_schedules(
        # join_schedules counts from the boundary; the recipe's cosine counts from the start.
        [lambda step: warmup_start + slope * step, lambda step: cosine(step + warmup_steps)],
        [warmup_steps],
    )


def make_schedule(config: FrozenConfigDict, warmup_steps: int, total_steps: int, first: int = 0) -> optax.Schedule:
    """Returns the learning rate by step; `config` is the `schedule` section and `first` the run's first step."""
    schedule = cosine_schedule(
        peak=config.learning_rate,
        minimum=config.min_learning_rate,
        warmup_start=config.warmup_learning_rate,
        warmup_steps=warmup_steps,
        total_steps=total_steps,
    )
    return (lambda step: schedule(step - first)) if first else schedule


def make_optimizer(
    config: FrozenConfigDict, schedule: optax.Schedule, backbone: str = ""
) -> optax.GradientTransformation:
    """Returns an optimizer with clipping by global norm; `config` is the run's `optimizer` section.

    `backbone` is the prefix of FocalNet's parameters, such as "backbone/".

    In all optimizers, weight decay is decoupled from the gradient and scaled by the learning rate, as in AdamW.
    The factors of `learning_rate_scales` and `layer_decay` multiply a parameter's whole update, decay included. A
    parameter with a factor of 0 is frozen: the optimizer has no state for the parameter and ignores its gradient.

    The patterns must fit the parameters, see `check_patterns`.
    """
    direction = OPTIMIZERS[config.name](config)
    if config.clip_norm:
        direction = optax.chain(optax.clip_by_global_norm(config.clip_norm), direction)
    if config.learning_rate_scales:
        direction = optax.partition({False: direction, True: optax.set_to_zero()}, partial(frozen, config))
    steps = [direction]
    if config.weight_decay:
        steps.append(_decayed(config.weight_decay, partial(decay_scales, config)))
    if config.name == "lamb":
        steps.append(_TRUST)
    steps.append(optax.scale_by_learning_rate(schedule))
    if config.learning_rate_scales or config.layer_decay != 1:
        steps.append(_scaled(partial(learning_rate_scales, config, backbone=backbone)))
    return optax.chain(*steps)


# The direction of an update, by the name of the optimizer; optax has what PyTorch's users know by these names.
OPTIMIZERS: dict[str, Callable[[FrozenConfigDict], optax.GradientTransformation]] = {
    "adamw": lambda config: optax.scale_by_adam(config.b1, config.b2, config.eps),
    "lamb": lambda config: optax.scale_by_adam(config.b1, config.b2, config.eps),  # arXiv 1904.00962
    "lion": lambda config: optax.scale_by_lion(config.b1, config.b2),  # arXiv 2302.06675
    "sgd": lambda config: optax.trace(config.b1),  # b1 is its momentum
}


def check_patterns(config: FrozenConfigDict, params: Any, backbone: str = "") -> None:
    """Checks the `optimizer` section against the parameters.

    Raises:
      UserError: a pattern fits no parameter, a parameter is covered by no rule, or all of them are frozen.
    """
    decay_scales(config, params)
    learning_rate_scales(config, params, backbone)
    if all(named_leaves(frozen(config, params)).values()):
        raise UserError(f"optimizer.learning_rate_scales={config.learning_rate_scales} freezes every parameter")


def frozen(config: FrozenConfigDict, params: Any) -> Any:
    """Returns for every parameter whether its learning rate is 0."""
    scales = by_pattern(config.learning_rate_scales, params, "optimizer.learning_rate_scales")
    return with_leaves(params, {name: scales.get(name) == 0 for name in named_leaves(params)})


def decay_scales(config: FrozenConfigDict, params: Any) -> Any:
    """Returns the factor of every parameter's weight decay: 1 for kernels, 0 for biases and scales, or a pattern's.

    Raises:
      UserError: a parameter has a different name, and no pattern covers the name.
    """
    scales = by_pattern(config.weight_decay_scales, params, "optimizer.weight_decay_scales")

    def scale(name: str) -> float:
        if name in scales:
            return scales[name]
        if not re.search(f"{DECAYED}|{NOT_DECAYED}", name):
            raise UserError(
                f"no rule says whether weight decay applies to the parameter {name}: add a pair such as ('^{name}$', 0)"
                " to optimizer.weight_decay_scales"
            )
        return float(bool(re.search(DECAYED, name)))

    return with_leaves(params, {name: scale(name) for name in named_leaves(params)})


def learning_rate_scales(config: FrozenConfigDict, params: Any, backbone: str = "") -> Any:
    """Returns the factor of every parameter's learning rate; one number per block where blocks are stacked.

    Layer-wise decay (arXiv 1801.06146, 2106.08254) uses timm's groups for FocalNet. Layer 0 is the embedding. Each
    block is the next layer and includes the downsample before the block. The norms of outputs belong to the layer of
    the last block, and the head is layer n. The factor of layer l is `layer_decay ** (n - l)`.

    Args:
      config: the `optimizer` section.
      params: parameters, as arrays or shapes.
      backbone: prefix of FocalNet's parameters; all others are the head's.

    Raises:
      UserError: a parameter of the backbone belongs to no layer.
    """
    scales = by_pattern(config.learning_rate_scales, params, "optimizer.learning_rate_scales")
    leaves = named_leaves(params)
    inside = {name: name.removeprefix(backbone) for name in leaves if name.startswith(backbone)}
    depths: dict[int, int] = {}
    for name, rest in inside.items():
        if found := _BLOCKS.match(rest):
            depths[int(found[2])] = leaves[name].shape[0]
    firsts = {stage: 1 + sum(depths[i] for i in range(stage)) for stage in range(len(depths) + 1)}
    last = firsts[len(depths)]

    def layer_of(name: str, leaf: Any) -> Any:
        rest = inside.get(name, "head/")
        if found := _BLOCKS.match(rest):
            return firsts[int(found[2])] + np.arange(leaf.shape[0]).reshape(-1, *[1] * (leaf.ndim - 1))
        if found := re.match(r"stages/(\d+)/downsample/", rest):
            return firsts[int(found[1]) + 1]
        first = rest.partition("/")[0]
        if first == "patch_embed":
            return 0
        if first in ("norm", "output_norms"):
            return last - 1
        if first == "head":
            return last
        raise UserError(
            f"no rule of optimizer.layer_decay covers the parameter {name}, which is in no layer of FocalNet"
        )

    def scale(name: str, leaf: Any) -> Any:
        decayed = np.float64(config.layer_decay) ** (last - layer_of(name, leaf))
        return np.asarray(decayed * scales.get(name, 1.0), np.float32)

    return with_leaves(params, {name: scale(name, leaf) for name, leaf in leaves.items()})


def _decayed(weight_decay: float, scales: Callable[[Any], Any]) -> optax.GradientTransformation:
    def add(updates: Any, params: Any) -> Any:
        return jax.tree.map(
            lambda update, param, scale: update + weight_decay * scale * param if scale else update,
            updates,
            params,
            scales(params),
        )

    return optax.stateless(add)


def _scaled(scales: Callable[[Any], Any]) -> optax.GradientTransformation:
    return optax.stateless(lambda updates, params: jax.tree.map(jnp.multiply, updates, scales(params)))


def _trust(path: Any, update: jax.Array, param: jax.Array) -> jax.Array:
    """Returns the update times LAMB's ratio of norms, which is per block where blocks are stacked."""
    stacked = bool(_BLOCKS.search(path_name(path)))
    axes = tuple(range(stacked, param.ndim))
    weights, change = (jnp.sqrt(jnp.sum(x**2, axis=axes, keepdims=True)) for x in (param, update))
    ratio = jnp.where((weights > 0) & (change > 0), weights / jnp.where(change > 0, change, 1.0), 1.0)
    return update * ratio


_TRUST = optax.stateless(lambda updates, params: jax.tree_util.tree_map_with_path(_trust, updates, params))
