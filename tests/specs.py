"""A task and how it is trained, as a run of a config has them."""

from focalnet_jax.tasks import task_kind
from focalnet_jax.training.data import open_train_data
from focalnet_jax.training.spec import make_spec


def open_task(config):
    """The task with its data and a fresh head."""
    kind = task_kind(config.task)
    return kind.make_task(config, kind.open_examples(config)).start_fresh()


def open_spec(config, mesh, *, warmup_steps=2, total_steps=100):
    """How a run of these durations trains, and the function that initialises its model."""
    return make_spec(config, mesh, open_task(config), warmup_steps=warmup_steps, total_steps=total_steps)


def train_batches_of(config, spec, steps, start=0):
    """The batches of a run's first steps."""
    return open_train_data(config, spec.mesh, spec.task).batches(start, steps)
