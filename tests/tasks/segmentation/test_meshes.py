"""Segmentation computes the same on any mesh and in any number of processes."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from focalnet_jax.data.masks import IGNORED
from focalnet_jax.distributed.mesh import make_mesh, put_batch
from focalnet_jax.distributed.sharding import shardings
from focalnet_jax.model.precision import get_precision
from focalnet_jax.parameters import named_leaves
from focalnet_jax.programs.config_files import load_config
from focalnet_jax.tasks.segmentation.kind import make_task
from focalnet_jax.training.health import fresh_health
from focalnet_jax.training.spec import make_spec
from focalnet_jax.training.state import TrainState, split_model
from focalnet_jax.training.step import make_train_step
from tests.commands import losses, metrics, run
from tests.models import with_drawn_parameters
from tests.processes import launch

RECIPE, BATCH, SIDE, CLASSES, STEPS = "configs/upernet_ade20k.py:smoke", 16, 32, 5, 3
# Dropout and stochastic depth are on. The divisor and the hard pixels depend on all pixels of a batch.
SMALL = [
    "--config.model.depths=(1,1)",
    f"--config.model.num_classes={CLASSES}",
    f"--config.data.image_size={SIDE}",
    f"--config.batch_size={BATCH}",
    "--config.schedule.learning_rate=1e-2",
    "--config.head.pool_scales=(1,)",
    "--config.head.average=weighted",
    "--config.head.class_weights=(1.0,2.0,0.5,1.0,3.0)",
    "--config.head.ohem_kept=300",
    "--config.head.ohem_threshold=0.3",
]
# Sums over the batch have a different order: an error of 6e-8 per rounding, which grows slightly with the updates.
ROUNDING = 1e-5


def batches():
    """Yields batches with padding, in which ignored pixels are distributed unevenly among the images."""
    for step in range(STEPS):
        draw = np.random.default_rng(step)
        mask = draw.integers(0, CLASSES, (BATCH, SIDE, SIDE)).astype(np.uint8)
        mask[draw.random(mask.shape) < np.linspace(0, 1, BATCH)[:, None, None]] = IGNORED
        yield {
            "image": draw.integers(0, 256, (BATCH, SIDE, SIDE, 3)).astype(np.uint8),
            "mask": mask,
            "size": draw.integers(SIDE // 2, SIDE + 1, (BATCH, 2)).astype(np.int32),
        }


def begin(mesh, *flags):
    """Returns the state before the first step, the train step and the mesh of a run on virtual devices."""
    config = load_config(RECIPE, [*SMALL, *flags])
    count = int(np.prod(mesh))
    mesh = make_mesh(dict(zip(("data", "fsdp", "tensor"), mesh, strict=True)), jax.devices()[:count])
    task = make_task(config, evaluated=False)
    spec, _ = make_spec(config, mesh, task, warmup_steps=0, total_steps=100)
    build = partial(task.build_model, get_precision("float32"), platform="cpu")
    _, variables = split_model(with_drawn_parameters(lambda: build(rngs=nnx.Rngs(0))))
    params, statistics = variables.params, variables.statistics
    state = TrainState(
        jnp.zeros((), jnp.int32), params, spec.optimizer.init(params), fresh_health(), statistics=statistics
    )
    return jax.device_put(state, shardings(state, mesh)), make_train_step(spec), mesh


def trained(mesh, *flags):
    """Returns the losses, the gradients' norms and the last statistics of a run on a mesh of virtual devices."""
    state, step, mesh = begin(mesh, *flags)
    rows = []
    for batch in batches():
        state, metrics = step(state, put_batch(batch, mesh))
        rows.append([float(metrics[f"train/{name}"]) for name in ("loss", "auxiliary_loss", "grad_norm")])
    assert int(state.health["skipped"]) == 0
    return np.array(rows), jax.device_get(named_leaves(state.statistics))


def assert_same(found, expected):
    (rows, statistics), (theirs, held) = found, expected
    np.testing.assert_allclose(rows[:, :2], theirs[:, :2], rtol=ROUNDING)
    np.testing.assert_allclose(rows[:, 2], theirs[:, 2], rtol=10 * ROUNDING)  # of a sum of squares
    for name, value in held.items():
        np.testing.assert_allclose(statistics[name], value, rtol=ROUNDING, atol=ROUNDING, err_msg=name)


@pytest.fixture(scope="module")
def on_one():
    return trained((1, 1, 1))


@pytest.mark.parametrize("mesh", [(8, 1, 1), (1, 8, 1), (2, 2, 2)], ids=["data", "fsdp", "all"])
def test_every_mesh_gives_the_same_losses_and_statistics(mesh, on_one):
    assert_same(trained(mesh), on_one)


def test_micro_batches_have_their_own_statistics_on_any_mesh(on_one):
    split = trained((1, 1, 1), "--config.accumulate_steps=2")
    assert_same(trained((2, 2, 2), "--config.accumulate_steps=2"), split)
    # This is not the computation of the whole batch: BatchNorm normalizes each half with its own mean and variance.
    assert abs(split[0][0, 0] / on_one[0][0, 0] - 1) > 10 * ROUNDING


def test_two_processes_compute_what_one_does(tmp_path):
    flags = ["--config", RECIPE, "--config.data.threads=1", "--config.head.ohem_kept=1000"]
    mesh = ["--config.mesh.data=2", "--config.mesh.fsdp=2", "--config.mesh.tensor=2"]
    alone = run("train.py", *flags, "--workdir", tmp_path / "alone")
    assert alone.returncode == 0, alone.stderr
    launcher = launch(*flags, *mesh, "--workdir", tmp_path / "together", devices=4)
    stdout, stderr = launcher.communicate(timeout=600)
    assert launcher.returncode == 0, stderr
    assert "2 process(es), mesh data=2 fsdp=2 tensor=2" in stdout
    expected, found = losses(tmp_path / "alone"), losses(tmp_path / "together")
    assert found.keys() == expected.keys() == set(range(1, 7))
    np.testing.assert_allclose(list(found.values()), list(expected.values()), ROUNDING)
    for name in ("eval/loss", "eval/miou"):
        [one], [other] = (
            [row[name] for row in metrics(tmp_path / run) if name in row] for run in ("alone", "together")
        )
        assert other == pytest.approx(one, rel=10 * ROUNDING)
