"""Skips an update if the loss or a gradient is NaN or infinite, or if the loss is a loss spike.

The counts and the mean loss are part of the train state, so a resumed run skips the same updates as an uninterrupted
run.
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
    """Returns zeros: updates `skipped`, skipped updates `in_a_row`, updates `made`, and `mean_loss` of updates made."""
    return {
        "skipped": jnp.zeros((), jnp.int32),
        "in_a_row": jnp.zeros((), jnp.int32),
        "made": jnp.zeros((), jnp.int32),
        "mean_loss": jnp.zeros(()),
    }


def judge(health: Health, loss: jax.Array, grad_norm: jax.Array, spike_factor: float) -> tuple[jax.Array, Health]:
    """Returns whether to make an update, and the new counts and mean loss.

    A loss above `spike_factor` times the running mean is a loss spike; a factor of 0 disables this check. Only the
    losses of updates that are made enter the mean, so a loss spike does not raise the threshold for the next one.
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
