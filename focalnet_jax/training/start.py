"""State that a run starts from: its newest checkpoint, another run, released weights or fresh weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
from ml_collections import FrozenConfigDict

from focalnet_jax.checkpoint.manager import Checkpoints
from focalnet_jax.checkpoint.steps import read_metadata
from focalnet_jax.config import replaced
from focalnet_jax.convert.load import Loaded
from focalnet_jax.distributed.host_values import check_same
from focalnet_jax.hub.download import fingerprint
from focalnet_jax.parameters import named_leaves, with_leaves
from focalnet_jax.tasks.task import Task
from focalnet_jax.training.plan import Plan
from focalnet_jax.training.resolve import with_open_warmup
from focalnet_jax.training.resume import Origin, check_checkpoint, data_of, find_origin
from focalnet_jax.training.state import Init, TrainSpec, TrainState, Variables, abstract_state, init_state
from focalnet_jax.training.stored_config import with_defaults, with_stored


def resumed_config(
    config: FrozenConfigDict, folder: Path, newest: int | None
) -> tuple[FrozenConfigDict, Origin | None]:
    """Returns the config with the values that an earlier run chose, and the checkpoint to continue from.

    The earlier run is the run in `folder`, whose newest step is `newest`. If `newest` is None, it is the run of
    `continue_from`. If both are missing, the config is returned unchanged. The returned checkpoint is None unless this
    run starts from `continue_from`.
    """
    if newest is not None:
        stored = read_metadata(folder / str(newest)).get("config")
        return (with_stored(config, with_defaults(stored, config.task)) if stored else config), None
    if not config.continue_from:
        return config, None
    origin = find_origin(config.continue_from)
    stored = with_open_warmup(with_defaults(origin.metadata["config"], config.task), origin.data.get("examples"))
    return replaced(with_stored(config, stored), {"continue_from": str(origin.checkpoint)}), origin


def start_task(
    config: FrozenConfigDict, task: Task, checkpoint: Path | None, origin: Origin | None, like: Variables
) -> tuple[Task, Loaded | None, int]:
    """Matches the task's data to the head of the model that the run starts from, and loads `init_from`.

    Returns:
      The task; the weights of `init_from`, or None if they are not used; and the number of unreadable images that the
      resumed run has substituted, or 0.
    """
    if checkpoint is not None:
        stored = check_checkpoint(config, checkpoint, task.source)
        return task.continue_run(stored, "this run"), None, data_of(stored).get("substituted", 0)
    if origin is not None:
        return task.continue_run(origin.metadata, str(origin.checkpoint)), None, 0
    if not config.init_from:
        return task.start_fresh(), None, 0
    if (weights := fingerprint(config.init_from)) is not None:
        check_same({"init_from": weights})  # each host downloads the weights separately
    initial = task.load(config.init_from, like, which=config.init_weights)
    return task.start_from(initial, config.init_from), initial, 0


def first_state(
    spec: TrainSpec, init: Init, checkpoints: Checkpoints, initial: Loaded | None
) -> tuple[TrainState, str]:
    """Returns the state to start from, and its origin in words.

    The state comes from the newest checkpoint, else from the weights `initial`, else from fresh weights.
    """
    latest = checkpoints.latest_step
    if latest is not None:
        like = abstract_state(spec, init)
        return TrainState.from_items(checkpoints.restore(latest, like.items())), f"resumed from step {latest}"
    state = init_state(spec, init)
    if initial is None:
        return state, "fresh weights"
    params, statistics = (
        with_leaves(fresh, named_leaves(fresh) | named_leaves(given))
        for fresh, given in ((state.params, initial.params), (state.statistics, initial.statistics))
    )
    started = replace(state, params=params, statistics=statistics)
    if state.ema is not None:
        ema, ema_statistics = jax.tree.map(jnp.copy, (params, statistics))
        started = replace(started, ema=ema, ema_statistics=ema_statistics)
    return started, f"weights of {initial.source}"


def describe_schedule(spec: TrainSpec, plan: Plan) -> str:
    """Describes the learning rate of a run that continues another run, in one line."""
    last = max(plan.total - 1, plan.first)
    begin, peak, end = (float(spec.schedule(step)) for step in (plan.first, plan.first + plan.warmup, last))
    text = f"schedule   a new one: the learning rate begins at {begin:.3g} in step {plan.first + 1}"
    if plan.warmup > last - plan.first:
        return f"{text} and rises to {end:.3g} in step {plan.total}, within its warm-up of {plan.warmup} steps"
    warmup = f"rises to {peak:.3g} in {plan.warmup} steps" if plan.warmup else "has no warm-up"
    return f"{text}, {warmup} and ends at {end:.3g} in step {plan.total}"
