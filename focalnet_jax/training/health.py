"""Skips an update if the loss, a gradient or a statistic is NaN or infinite, or if there is a loss spike.

The counts and the mean loss are part of the train state, so a resumed run skips the same updates as an uninterrupted
run.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

Health = dict[str, jax.Array]

_MEMORY = 0.98  # decay of the running mean of losses, which covers about the last 50 updates
_LEARNING = 50  # number of applied updates before a loss can be a spike


def fresh_health() -> Health:
    """Returns the health counters of a new run, all zero.

    The counters are `skipped` (number of updates skipped), `in_a_row` (number skipped consecutively), `made` (number
    applied), and `mean_loss` (running mean of the losses of applied updates).
    """
    return {
        "skipped": jnp.zeros((), jnp.int32),
        "in_a_row": jnp.zeros((), jnp.int32),
        "made": jnp.zeros((), jnp.int32),
        "mean_loss": jnp.zeros(()),
    }


def judge(
    health: Health,
    loss: jax.Array,
    grad_norm: jax.Array,
    spike_factor: float,
    statistics_max: jax.Array | None = None,
) -> tuple[jax.Array, Health]:
    """Returns whether to apply an update, a bool scalar, and the new counters.

    `statistics_max` is the result of `largest` for the new statistics.

    After 50 applied updates, a loss above `spike_factor` times the running mean is a loss spike. A factor of 0 disables
    this check. Only the losses of applied updates enter the mean, so a loss spike does not raise the threshold for the
    next one.
    """
    good = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
    if statistics_max is not None:
        good &= jnp.isfinite(statistics_max)
    if spike_factor:
        known = health["made"] >= _LEARNING
        good &= ~(known & (loss > spike_factor * health["mean_loss"]))
    weight = jnp.maximum(1 - _MEMORY, 1 / (health["made"] + 1))  # a plain mean at first
    mean = health["mean_loss"] + weight * (jnp.where(good, loss, 0) - health["mean_loss"])
    bad = (~good).astype(jnp.int32)
    return good, {
        "skipped": health["skipped"] + bad,
        "in_a_row": (health["in_a_row"] + 1) * bad,
        "made": health["made"] + 1 - bad,
        "mean_loss": jnp.where(good, mean, health["mean_loss"]),
    }


def largest(statistics: Any) -> jax.Array | None:
    """Returns the largest absolute value of all statistics, or None without statistics; NaN if any value is NaN.

    Integers (such as counters) and PRNG keys are left out.
    """
    leaves = [leaf for leaf in jax.tree.leaves(statistics) if jnp.issubdtype(leaf.dtype, jnp.inexact) and leaf.size]
    if not leaves:
        return None
    return jnp.max(jnp.stack([jnp.max(jnp.abs(leaf)).astype(jnp.float32) for leaf in leaves]))


def where_good(good: jax.Array, new: Any, old: Any) -> Any:
    """Returns `new` if the update is applied, else `old`.

    The step count of the learning rate schedule is always new, because it includes skipped updates.
    """

    def choose(new: Any, old: Any) -> Any:
        return new if _counts_steps(new) else jnp.where(good, new, old)

    return jax.tree.map(choose, new, old, is_leaf=_counts_steps)


def _counts_steps(node: Any) -> bool:
    return isinstance(node, optax.ScaleByScheduleState)
