"""Detection computes the same on any mesh and with any number of micro-batches."""

import jax
import numpy as np
import pytest

from focalnet_jax.distributed.mesh import make_mesh, put_batch
from focalnet_jax.programs.config_files import load_config
from focalnet_jax.training.state import init_state
from focalnet_jax.training.step import make_train_step
from tests.specs import open_spec, train_batches_of

SMALL = ["--config.schedule.learning_rate=1e-3", "--config.batch_size=8", "--config.model.drop_path_rate=0.2"]
STEPS = 3


def losses(mesh, *flags):
    config = load_config("configs/atss_coco.py:smoke", [*SMALL, *flags])
    count = int(np.prod(mesh))
    mesh = make_mesh(dict(zip(("data", "fsdp", "tensor"), mesh, strict=True)), jax.devices()[:count])
    spec, init = open_spec(config, mesh, warmup_steps=0)
    state, step, found = init_state(spec, init), make_train_step(spec), []
    for batch in train_batches_of(config, spec, STEPS):
        state, metrics = step(state, put_batch(batch, spec.mesh))
        found.append(float(metrics["train/loss"]))
    return np.array(found)


@pytest.fixture(scope="module")
def on_one_device():
    return losses((1, 1, 1))


@pytest.mark.parametrize(
    ("mesh", "flags"),
    [((8, 1, 1), ()), ((1, 8, 1), ()), ((2, 2, 2), ()), ((1, 1, 1), ("--config.accumulate_steps=2",))],
    ids=["data", "fsdp", "all axes", "micro-batches"],
)
def test_losses_are_those_of_one_device(mesh, flags, on_one_device):
    np.testing.assert_allclose(losses(mesh, *flags), on_one_device, rtol=1e-5)  # sums in different orders
