"""Detection computes the same on any mesh and with any number of micro-batches."""

import dataclasses
import re
from functools import cache

import jax
import numpy as np
import pytest

from focalnet_jax.distributed.mesh import make_mesh, put_batch, split_by_example
from focalnet_jax.programs.config_files import load_config
from focalnet_jax.training.state import init_state, merge_model
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


def opened(recipe, mesh, *flags):
    """Returns the config of a small detector, its TrainSpec on a mesh, and the function that initialises it."""
    rate = f"--config.schedule.learning_rate={RATES[recipe]}"
    config = load_config(f"configs/{recipe}.py:smoke", [*SMALL, rate, *flags])
    count = int(np.prod(mesh))
    mesh = make_mesh(dict(zip(("data", "fsdp", "tensor"), mesh, strict=True)), jax.devices()[:count])
    return config, *open_spec(config, mesh, warmup_steps=0)


def losses(recipe, mesh, *flags):
    config, spec, init = opened(recipe, mesh, *flags)
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


@pytest.mark.parametrize("recipe", ["atss_coco", "mask_rcnn_coco"])
def test_devices_exchange_nothing_in_an_evaluation(recipe):
    _, spec, init = opened(recipe, MESHES["data"])
    evaluation, split = spec.task.evaluations()["eval"], split_by_example(spec.mesh)
    batch = spec.task.batch_spec(8, evaluated=True) | {"mask": jax.ShapeDtypeStruct((8,), np.float32)}
    placed = {name: jax.ShapeDtypeStruct(each.shape, each.dtype, sharding=split) for name, each in batch.items()}

    def measure(variables, batch):
        with jax.sharding.use_abstract_mesh(spec.mesh.abstract_mesh):
            return evaluation.measure(merge_model(spec.graph, variables), batch)

    state = init_state(spec, init)
    program = jax.jit(measure, out_shardings=split).lower(state.result, placed).compile().as_text()
    assert " while(" in program  # the program has loops, in which an exchange would be slow
    assert not re.findall(r" (?:all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)[-\w.]*\(", program)
