"""Detection computes the same on any mesh and with any number of micro-batches."""

import dataclasses
from functools import cache

import jax
import numpy as np
import pytest

from focalnet_jax.distributed.mesh import make_mesh, put_batch
from focalnet_jax.programs.config_files import load_config
from focalnet_jax.training.state import init_state
from focalnet_jax.training.step import make_train_step
from tests.specs import open_spec, train_batches_of

SMALL = [
    "--config.batch_size=8",
    "--config.model.drop_path_rate=0.2",
    # One canvas, so that each mesh compiles one program.
    "--config.data.image_size=(96,96)",
    "--config.augment.long_side=96",
    "--config.inference.box=(96,96)",
    # With plain gradients, updates agree as well as gradients do. Adam would amplify rounding of gradients near 0.
    "--config.optimizer.name=sgd",
    "--config.optimizer.clip_norm=0",
]
RATES = {"atss_coco": 1e-2, "mask_rcnn_coco": 1e-2, "cascade_mask_rcnn_coco": 1e-2, "sparse_rcnn_coco": 1e-4}
STEPS = 3


def apart(state):
    """Returns the state of a Sparse R-CNN whose proposals differ and hardly move.

    A new one moves its proposals, which are all alike, so far in six stages that rounding decides matches.
    """

    def changed(path, leaf):
        name = jax.tree_util.keystr(path)
        if "fc_reg" in name:
            return leaf * 0.01
        if "init_proposal_bboxes" not in name:
            return leaf
        places = np.random.default_rng(0).uniform([0.2, 0.2, 0.1, 0.1], [0.8, 0.8, 0.4, 0.4], leaf.shape)
        return jax.device_put(places.astype(leaf.dtype), leaf.sharding)

    return dataclasses.replace(state, params=jax.tree_util.tree_map_with_path(changed, state.params))


def losses(recipe, mesh, *flags):
    rate = f"--config.schedule.learning_rate={RATES[recipe]}"
    config = load_config(f"configs/{recipe}.py:smoke", [*SMALL, rate, *flags])
    count = int(np.prod(mesh))
    mesh = make_mesh(dict(zip(("data", "fsdp", "tensor"), mesh, strict=True)), jax.devices()[:count])
    spec, init = open_spec(config, mesh, warmup_steps=0)
    state, step, found = init_state(spec, init), make_train_step(spec), []
    if recipe == "sparse_rcnn_coco":
        state = apart(state)
    for batch in train_batches_of(config, spec, STEPS):
        state, metrics = step(state, put_batch(batch, spec.mesh))
        found.append(float(metrics["train/loss"]))
    return np.array(found)


@pytest.fixture(scope="module")
def on_one_device():
    return cache(lambda recipe: losses(recipe, (1, 1, 1)))


MESHES = {"data": (8, 1, 1), "fsdp": (1, 8, 1), "all axes": (2, 2, 2), "micro-batches": (1, 1, 1)}
# BatchNorm normalizes each micro-batch by itself, so micro-batches change the losses of the cascade.
CASES = [
    # In a group, tests run in one process, which computes the losses of one device once.
    pytest.param(recipe, name, id=f"{recipe}-{name}", marks=pytest.mark.xdist_group(recipe))
    for recipe in ("atss_coco", "mask_rcnn_coco", "cascade_mask_rcnn_coco", "sparse_rcnn_coco")
    for name in MESHES
    if (recipe, name) != ("cascade_mask_rcnn_coco", "micro-batches")
]


@pytest.mark.parametrize(("recipe", "name"), CASES)
def test_losses_are_those_of_one_device(recipe, name, on_one_device):
    flags = ("--config.accumulate_steps=2",) if name == "micro-batches" else ()
    found = losses(recipe, MESHES[name], *flags)
    np.testing.assert_allclose(found, on_one_device(recipe), rtol=1e-5)  # sums in different orders
