"""A small model trained on a mesh of the virtual devices."""

import numpy as np

from focalnet_jax.distributed.mesh import make_mesh, put_batch
from focalnet_jax.parameters import named_leaves
from focalnet_jax.programs.command_line import load_config
from focalnet_jax.training.setup import make_task, open_train_data
from focalnet_jax.training.step import init_state, make_train_step

SMALL = [
    "--config.model.embed_dim=64",
    "--config.model.depths=(1,)",
    "--config.data.image_size=16",
    "--config.data.eval_resize=16",
    "--config.batch_size=16",
    "--config.model.drop_path_rate=0.2",
]


def task_on(mesh, overrides=()):
    config = load_config("configs/quickstart.py", [*SMALL, *overrides])
    mesh = make_mesh(dict(zip(("data", "fsdp", "tensor"), mesh, strict=True)))
    task, init_params = make_task(config, mesh, warmup_steps=2, total_steps=100)
    return config, task, init_params


def trained(mesh, steps=20, overrides=()):
    config, task, init_params = task_on(mesh, overrides)
    state, step, losses = init_state(task, init_params), make_train_step(task), []
    before = {name: leaf.sharding for name, leaf in named_leaves(state.items()).items()}
    for batch in open_train_data(config, task.mesh).batches(0, steps):
        state, metrics = step(state, put_batch(batch, task.mesh))
        losses.append(float(metrics["train/loss"]))
    after = named_leaves(state.items())
    for name, sharding in before.items():
        assert after[name].sharding.is_equivalent_to(sharding, after[name].ndim), name
    return np.array(losses), state
