"""Skips harmful updates: those of a NaN or infinite loss or gradient, and those of a loss spike.

Its memory is part of the train state, so that a resumed run judges as the uninterrupted one would.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

Health = dict[str, jax.Array]

_MEMORY = 0.98  # of the running mean of losses: about the last 50
_LEARNING = 50  # updates before a loss can be a spike


def fresh_health() -> Health:
    """Returns zero counts: updates `skipped`, of them `in_a_row`, updates `made`, and the mean of their losses."""
    return {
        "skipped": jnp.zeros((), jnp.int32),
        "in_a_row": jnp.zeros((), jnp.int32),
        "made": jnp.zeros((), jnp.int32),
        "mean_loss": jnp.zeros(()),
    }


def judge(health: Health, loss: jax.Array, grad_norm: jax.Array, spike_factor: float) -> tuple[jax.Array, Health]:
    """Returns whether to make an update, and the memory after it.

    A loss above `spike_factor` times the running mean is a loss spike (0: none is). Only losses of updates that are
    made enter the mean, so that spikes do not make further spikes look usual.
    """
    good = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
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


def where_good(good: jax.Array, new: Any, old: Any) -> Any:
    """Returns `new` if the update is made, else `old`; the schedule counts skipped steps too."""

    def choose(new: Any, old: Any) -> Any:
        return new if _counts_steps(new) else jnp.where(good, new, old)

    return jax.tree.map(choose, new, old, is_leaf=_counts_steps)


def _counts_steps(node: Any) -> bool:
    return isinstance(node, optax.ScaleByScheduleState)
