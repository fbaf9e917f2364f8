"""The task of a config and its TrainSpec, as in a run."""

from focalnet_jax.tasks import task_kind
from focalnet_jax.training.data import open_train_data
from focalnet_jax.training.spec import make_spec


def open_task(config):
    """Returns the task with its data and a new classifier."""
    kind = task_kind(config.task)
    return kind.make_task(config, kind.open_examples(config)).start_fresh()


def open_spec(config, mesh, *, warmup_steps=2, total_steps=100):
    """Returns the TrainSpec of a run with these durations, and the function that initialises its model."""
    return make_spec(config, mesh, open_task(config), warmup_steps=warmup_steps, total_steps=total_steps)


def train_batches_of(config, spec, steps, start=0):
    """Returns the batches of the first steps of a run."""
    return open_train_data(config, spec.mesh, spec.task).batches(start, steps)
