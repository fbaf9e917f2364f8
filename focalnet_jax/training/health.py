"""Updates that would do harm are not made: of a loss or gradient that is no number, and of a loss that leaps.

What is remembered of it is part of the train state, so that a run that goes on judges as the undisturbed one would.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

Health = dict[str, jax.Array]

_MEMORY = 0.98  # of the running mean of losses: about the last 50
_LEARNING = 50  # updates before a leap is one


def fresh_health() -> Health:
    """Updates `skipped`, those `in_a_row` up to the newest, those `made`, and the running mean of their losses."""
    return {
        "skipped": jnp.zeros((), jnp.int32),
        "in_a_row": jnp.zeros((), jnp.int32),
        "made": jnp.zeros((), jnp.int32),
        "mean_loss": jnp.zeros(()),
    }


def judge(health: Health, loss: jax.Array, grad_norm: jax.Array, spike_factor: float) -> tuple[jax.Array, Health]:
    """Whether an update should be made, and what is remembered after it.

    A loss above `spike_factor` times the running mean is a leap (0: none is). Only losses of updates that are made
    enter the mean: what is skipped cannot make the next of its kind look usual.
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
    """`new` after an update that is made, else `old`; but the schedule counts steps, made or not."""

    def choose(new: Any, old: Any) -> Any:
        return new if _counts_steps(new) else jnp.where(good, new, old)

    return jax.tree.map(choose, new, old, is_leaf=_counts_steps)


def _counts_steps(node: Any) -> bool:
    return isinstance(node, optax.ScaleByScheduleState)
