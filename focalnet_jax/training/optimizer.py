"""Optimizers, the learning rate and weight decay of each parameter, and the schedules of the published recipes."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import FrozenConfigDict

from focalnet_jax.errors import UserError
from focalnet_jax.parameters import by_pattern, named_leaves, path_name, with_leaves

# Weight decay applies to matrices and convolution kernels, which are named `kernel`, but not to biases, norms and
# LayerScale. Names decide, not shapes, because the stacked blocks of a stage give every parameter a leading axis.
DECAYED = r"(^|/)kernel$"
NOT_DECAYED = r"(^|/)(bias|scale|gamma\d+)$"
_BLOCKS = re.compile(r"(^|/)stages/(\d+)/blocks/")


def cosine_schedule(
    *, peak: float, minimum: float, warmup_start: float, warmup_steps: int, total_steps: int
) -> optax.Schedule:
    """Returns a schedule with linear warm-up and a cosine over the whole run, like timm's CosineLRScheduler per step.

    The schedule's argument is the number of finished steps. The cosine starts at step 0, not at the end of the
    warm-up, so the learning rate jumps slightly at the end of the warm-up. From `total_steps` on, the rate is
    `minimum`. A run shorter than the warm-up ends during the warm-up.

    Args:
      peak: learning rate at which the cosine starts and to which the warm-up rises.
      minimum: learning rate at the end of the cosine.
      warmup_start: learning rate of the first warm-up step.
      warmup_steps: number of warm-up steps; 0 for no warm-up.
      total_steps: number of steps, including the warm-up.
    """
    cosine = optax.cosine_decay_schedule(peak, total_steps, alpha=minimum / peak if peak else 0.0)
    if not warmup_steps:
        return cosine
    slope = (peak - warmup_start) / warmup_steps
    # optax.linear_schedule subtracts from the peak, which loses digits of a small start in float32.
    return optax.join_schedules(
        # join_schedules passes the steps since the boundary; the recipe's cosine counts steps from the start.
        [lambda step: warmup_start + slope * step, lambda step: cosine(step + warmup_steps)],
        [warmup_steps],
    )


def poly_schedule(
    *, peak: float, minimum: float, power: float, warmup_start: float, warmup_steps: int, total_steps: int
) -> optax.Schedule:
    """Returns a polynomial decay over the whole run, multiplied by a linear warm-up, as in mmsegmentation 0.x.

    The learning rate of step i is `(peak - minimum) * (1 - i / total_steps) ** power + minimum`, times
    `1 - (1 - i / warmup_steps) * (1 - warmup_start / peak)` in the warm-up. In the recipes of mmsegmentation 1.x, the
    warm-up rises to `peak` instead.

    Args:
      peak: learning rate of step 0 without a warm-up.
      minimum: learning rate after `total_steps`.
      power: exponent of the decay.
      warmup_start: learning rate of the first warm-up step.
      warmup_steps: number of warm-up steps; 0 for no warm-up.
      total_steps: number of steps, including the warm-up.
    """
    decay = optax.polynomial_schedule(peak, minimum, power, total_steps)
    return _warmed(decay, warmup_start / peak if peak else 0.0, warmup_steps)


def step_schedule(
    *,
    peak: float,
    minimum: float,
    drops: Sequence[float],
    drop_factor: float,
    warmup_start: float,
    warmup_steps: int,
    total_steps: int,
) -> optax.Schedule:
    """Returns a schedule whose rate is multiplied by a factor at some steps, with a linear warm-up, as in mmdetection.

    Args:
      peak: learning rate before the first drop.
      minimum: smallest learning rate after the warm-up.
      drops: fractions of the run after which the rate drops, such as 9/12 and 11/12 for drops after epochs 9 and 11
        of 12.
      drop_factor: factor of each drop.
      warmup_start: learning rate of the first warm-up step.
      warmup_steps: number of warm-up steps; 0 for no warm-up.
      total_steps: number of steps, including the warm-up.
    """
    rates = [max(peak * drop_factor**count, minimum) for count in range(len(drops) + 1)]
    constant = [optax.constant_schedule(rate) for rate in rates]
    dropped = optax.join_schedules(constant, [round(share * total_steps) for share in sorted(drops)])
    return _warmed(dropped, warmup_start / peak if peak else 0.0, warmup_steps)


def _warmed(schedule: optax.Schedule, ratio: float, steps: int) -> optax.Schedule:
    """Returns `schedule` with its first `steps` rates multiplied by factors that rise linearly from `ratio` to 1."""

    def warmed(step: Any) -> Any:
        # In this form, a small ratio loses no digits in float32.
        done = step / steps
        return schedule(step) * jnp.where(step < steps, done + (1 - done) * ratio, 1.0)

    return warmed if steps else schedule


def make_schedule(config: FrozenConfigDict, warmup_steps: int, total_steps: int, first: int = 0) -> optax.Schedule:
    """Returns the learning rate as a function of the step.

    Args:
      config: the `schedule` section.
      warmup_steps: number of warm-up steps.
      total_steps: number of steps of the schedule.
      first: step at which the schedule begins.
    """
    makes = {
        "cosine": cosine_schedule,
        "poly": partial(poly_schedule, power=config.power),
        "step": partial(step_schedule, drops=config.drops, drop_factor=config.drop_factor),
    }
    schedule = makes[config.name](
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
    """Returns the optimizer of the config, with clipping by global norm unless `clip_norm` is 0.

    In all optimizers, weight decay is decoupled from the gradient and scaled by the learning rate, as in AdamW.
    The factors of `learning_rate_scales` and `layer_decay` multiply a parameter's whole update, decay included. A
    parameter with a factor of 0 is frozen: the optimizer has no state for the parameter and ignores its gradient.

    `check_patterns` checks that the patterns in `config` fit the parameters.

    Args:
      config: the `optimizer` section.
      schedule: learning rate as a function of the step.
      backbone: prefix of FocalNet's parameters, such as "backbone/".
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


# Direction of the update by optimizer name, before weight decay and learning rate.
OPTIMIZERS: dict[str, Callable[[FrozenConfigDict], optax.GradientTransformation]] = {
    "adamw": lambda config: optax.scale_by_adam(config.b1, config.b2, config.eps),
    "lamb": lambda config: optax.scale_by_adam(config.b1, config.b2, config.eps),  # arXiv 1904.00962
    "lion": lambda config: optax.scale_by_lion(config.b1, config.b2),  # arXiv 2302.06675
    "sgd": lambda config: optax.trace(config.b1),  # b1 is the momentum
}


def check_patterns(config: FrozenConfigDict, params: Any, backbone: str = "") -> None:
    """Checks the `optimizer` section against the parameters.

    Raises:
      UserError: a pattern or the prefix of the backbone matches no parameter, no rule covers a parameter, or all
        parameters are frozen.
    """
    decay_scales(config, params)
    learning_rate_scales(config, params, backbone)
    if all(named_leaves(frozen(config, params)).values()):
        raise UserError(
            f"optimizer.learning_rate_scales={config.learning_rate_scales} freezes every parameter: remove a pair"
        )


def frozen(config: FrozenConfigDict, params: Any) -> Any:
    """Returns a bool for every parameter: whether its factor in `learning_rate_scales` is 0."""
    scales = by_pattern(config.learning_rate_scales, params, "optimizer.learning_rate_scales")
    return with_leaves(params, {name: scales.get(name) == 0 for name in named_leaves(params)})


def decay_scales(config: FrozenConfigDict, params: Any) -> Any:
    """Returns the factor of every parameter's weight decay.

    A pattern in `weight_decay_scales` sets the factor of the parameters that it matches. For other parameters, the
    factor is 1 for kernels and 0 for biases, norms and LayerScale.

    Raises:
      UserError: a parameter has an unknown name, and no pattern matches it.
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
    """Returns the factor of every parameter's learning rate, with one number per block for stacked blocks.

    Layer-wise decay (arXiv 1801.06146, 2106.08254) uses timm's groups for FocalNet. Layer 0 is the patch embedding.
    Each block is the next layer, together with a downsample before it. The output norms belong to the layer of the last
    block. The head is the last layer, n. In layer l, the factor is `layer_decay ** (n - l)`, times the factor of a
    matching pattern in `learning_rate_scales`.

    Args:
      config: the `optimizer` section.
      params: parameters, as arrays or shapes.
      backbone: prefix of FocalNet's parameters; all other parameters belong to the head.

    Raises:
      UserError: a parameter of the backbone belongs to no layer, or no parameter has the prefix.
    """
    scales = by_pattern(config.learning_rate_scales, params, "optimizer.learning_rate_scales")
    leaves = named_leaves(params)
    inside = {name: name.removeprefix(backbone) for name in leaves if name.startswith(backbone)}
    if not inside:
        raise UserError(
            f"no parameter has the prefix {backbone!r}, which the task gives for the backbone; the parameters are "
            f"{', '.join(leaves)}"
        )
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
    """Returns the update times LAMB's trust ratio (arXiv 1904.00962), computed per block for stacked blocks."""
    stacked = bool(_BLOCKS.search(path_name(path)))
    axes = tuple(range(stacked, param.ndim))
    weights, change = (jnp.sqrt(jnp.sum(x**2, axis=axes, keepdims=True)) for x in (param, update))
    ratio = jnp.where((weights > 0) & (change > 0), weights / jnp.where(change > 0, change, 1.0), 1.0)
    return update * ratio


_TRUST = optax.stateless(lambda updates, params: jax.tree_util.tree_map_with_path(_trust, updates, params))
