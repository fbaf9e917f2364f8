"""AdamW with a per-step cosine schedule, as the published recipe has it."""

from __future__ import annotations

import optax
from ml_collections import FrozenConfigDict

from focalnet_jax.paths import selected

# Matrices and convolution kernels are named `kernel`; biases, norms and LayerScale are not and do not decay. A name
# tells what a shape cannot: the stacked blocks of a stage give every parameter a leading axis.
DECAYED = r"(^|/)kernel$"


def cosine_schedule(
    *, peak: float, minimum: float, warmup_start: float, warmup_steps: int, total_steps: int
) -> optax.Schedule:
    """Linear warm-up, then a cosine over the whole run, as timm's CosineLRScheduler computes it per step.

    Step t is the number of updates before this one. The cosine counts from step 0 and includes the warm-up, so a
    small jump follows it; from `total_steps` on the rate is `minimum`. A run shorter than its warm-up ends within it.
    """
    cosine = optax.cosine_decay_schedule(peak, total_steps, alpha=minimum / peak if peak else 0.0)
    if not warmup_steps:
        return cosine
    slope = (peak - warmup_start) / warmup_steps
    # optax.linear_schedule counts down from the peak, which costs a small start its digits in float32.
    return optax.join_schedules(
        # join_schedules counts from the boundary; the recipe's cosine counts from the start.
        [lambda step: warmup_start + slope * step, lambda step: cosine(step + warmup_steps)],
        [warmup_steps],
    )


def make_schedule(config: FrozenConfigDict, warmup_steps: int, total_steps: int) -> optax.Schedule:
    """The learning rate by step; `config` is the run's `schedule` section."""
    return cosine_schedule(
        peak=config.learning_rate,
        minimum=config.min_learning_rate,
        warmup_start=config.warmup_learning_rate,
        warmup_steps=warmup_steps,
        total_steps=total_steps,
    )


def make_optimizer(config: FrozenConfigDict, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Clip by global norm, then AdamW; `config` is the run's `optimizer` section."""
    adamw = optax.adamw(
        schedule,
        b1=config.b1,
        b2=config.b2,
        eps=config.eps,
        weight_decay=config.weight_decay,
        mask=selected(DECAYED),
    )
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), adamw) if config.clip_norm else adamw
