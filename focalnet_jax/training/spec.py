"""Makes the `TrainSpec` of a run from a resolved config and its task."""

from __future__ import annotations

from functools import partial

from jax.sharding import Mesh
from ml_collections import FrozenConfigDict

from focalnet_jax.errors import UserError
from focalnet_jax.tasks.task import Task
from focalnet_jax.training.optimizer import frozen, make_optimizer, make_schedule
from focalnet_jax.training.state import Init, TrainSpec, model_graph


def make_spec(
    config: FrozenConfigDict, mesh: Mesh, task: Task, *, warmup_steps: int, total_steps: int, first_step: int = 0
) -> tuple[TrainSpec, Init]:
    """Returns the `TrainSpec` of a run with these durations, and the function that initialises the model.

    The schedule begins at `first_step` and has `total_steps` steps.

    Raises:
      UserError: the config sets micro-batches, and the loss of the task is defined only for a whole batch.
    """
    if config.accumulate_steps > 1 and not task.splits_batches:
        raise UserError(
            f"accumulate_steps={config.accumulate_steps}: the loss of {task.name} needs the whole batch; expected 1"
        )
    graph, init = model_graph(task, config.precision, mesh)
    schedule = make_schedule(config.schedule, warmup_steps, total_steps, first_step)
    spec = TrainSpec(
        task,
        graph,
        make_optimizer(config.optimizer, schedule, task.backbone),
        schedule,
        config.seed,
        mesh,
        accumulate_steps=config.accumulate_steps,
        ema_decay=config.ema_decay,
        frozen=partial(frozen, config.optimizer) if config.optimizer.learning_rate_scales else None,
        spike_factor=config.health.spike_factor,
        log_statistics=config.log_statistics,
    )
    return spec, init
