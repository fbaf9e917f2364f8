"""Trains a small model on a mesh of virtual devices."""

import numpy as np

from focalnet_jax.distributed.mesh import make_mesh, put_batch
from focalnet_jax.parameters import named_leaves
from focalnet_jax.programs.config_files import load_config
from focalnet_jax.training.state import init_state
from focalnet_jax.training.step import make_train_step
from tests.specs import open_spec, train_batches_of

SMALL = [
    "--config.model.embed_dim=64",
    "--config.model.depths=(1,)",
    "--config.data.image_size=16",
    "--config.data.eval_resize=16",
    "--config.batch_size=16",
    "--config.model.drop_path_rate=0.2",
]


def spec_on(mesh, overrides=()):
    config = load_config("configs/quickstart.py", [*SMALL, *overrides])
    mesh = make_mesh(dict(zip(("data", "fsdp", "tensor"), mesh, strict=True)))
    return config, *open_spec(config, mesh)


def trained(mesh, steps=10, overrides=()):
    config, spec, init = spec_on(mesh, overrides)
    state, step, losses = init_state(spec, init), make_train_step(spec), []
    before = {name: leaf.sharding for name, leaf in named_leaves(state.items()).items()}
    for batch in train_batches_of(config, spec, steps):
        state, metrics = step(state, put_batch(batch, spec.mesh))
        losses.append(float(metrics["train/loss"]))
    after = named_leaves(state.items())
    for name, sharding in before.items():
        assert after[name].sharding.is_equivalent_to(sharding, after[name].ndim), name
    return np.array(losses), state
