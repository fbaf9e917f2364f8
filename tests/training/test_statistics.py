"""Variables other than parameters, such as BatchNorm's running statistics, are part of the train state."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from focalnet_jax.checkpoint.manager import Checkpoints
from focalnet_jax.checkpoint.weights import load_statistics
from focalnet_jax.config import model_config
from focalnet_jax.convert.load import load_into
from focalnet_jax.distributed.mesh import make_mesh, put_batch
from focalnet_jax.parameters import named_leaves
from focalnet_jax.programs.config_files import load_config
from focalnet_jax.training.start import first_state, start_task
from focalnet_jax.training.state import (
    TrainSpec,
    TrainState,
    abstract_state,
    abstract_variables,
    init_state,
    merge_model,
    model_graph,
)
from focalnet_jax.training.step import make_train_step

MOMENTUM, DECAY = 0.9, 0.75
RNG = np.random.default_rng(0)
INPUTS = RNG.normal(2, 3, (3, 16, 6)).astype(np.float32)  # inputs of three steps


class Normed(nnx.Module):
    """BatchNorm and a linear layer."""

    def __init__(self, rngs):
        self.norm = nnx.BatchNorm(6, momentum=MOMENTUM, rngs=rngs)
        self.head = nnx.Linear(6, 1, rngs=rngs)

    def __call__(self, x):
        """Maps `[B, 6]` to `[B]`."""
        return self.head(self.norm(x, use_running_average=False))[:, 0]


@dataclasses.dataclass(frozen=True)
class Regression:
    """A regression task: predicts the sum of a row of numbers."""

    name = "regression"
    backbone = ""
    splits_batches = True

    def build_model(self, precision, rngs, platform):
        """As `Task` has it."""
        return Normed(rngs)

    def counts(self, model, batch, keys):
        """Returns None."""

    def prepare(self, batch, key):
        """As `Task` has it."""
        return batch

    def loss(self, model, batch, keys):
        """As `Task` has it."""
        error = model(batch["x"]) - batch["y"]
        return jnp.mean(error**2), {"error": jnp.mean(jnp.abs(error))}


def spec_on(devices=1, **options):
    mesh = make_mesh({"data": devices, "fsdp": 1, "tensor": 1}, jax.devices()[:devices])
    graph, init = model_graph(Regression(), "float32", mesh)
    return TrainSpec(Regression(), graph, optax.sgd(0.01), lambda _: 0.01, 0, mesh, **options), init


def trained(devices=1, inputs=INPUTS, **options):
    """Returns the states after 0, 1, 2 and 3 steps, and the metrics of the last step."""
    spec, init = spec_on(devices, **options)
    state, step = init_state(spec, init), make_train_step(spec)
    states = [jax.device_get(state)]
    for x, usual in zip(inputs, INPUTS, strict=True):
        batch = {"x": x, "y": usual.sum(1)}
        state, metrics = step(state, put_batch(batch, spec.mesh))
        states.append(jax.device_get(state))
    return states, metrics


def statistic(state, name, tree="statistics"):
    return named_leaves(getattr(state, tree))[f"norm/{name}"]


@pytest.mark.parametrize("devices", [1, 8])
def test_statistics_are_of_the_global_batch_on_any_number_of_devices(devices):
    states, _ = trained(devices)
    mean, var = np.zeros(6), np.ones(6)
    for x in INPUTS:
        mean = MOMENTUM * mean + (1 - MOMENTUM) * x.mean(0)
        var = MOMENTUM * var + (1 - MOMENTUM) * x.var(0)
    # float32 sums of 16 numbers, in a different order on 8 devices.
    np.testing.assert_allclose(statistic(states[-1], "mean"), mean, rtol=1e-5)
    np.testing.assert_allclose(statistic(states[-1], "var"), var, rtol=1e-5)


def test_micro_batches_update_the_statistics_one_after_the_other():
    states, metrics = trained(accumulate_steps=4)
    mean = np.zeros(6)
    for x in INPUTS:
        for part in range(4):  # micro-batch n has the examples n, n + 4, ...
            mean = MOMENTUM * mean + (1 - MOMENTUM) * x[part::4].mean(0)
    np.testing.assert_allclose(statistic(states[-1], "mean"), mean, rtol=1e-5)
    assert np.isfinite(metrics["train/error"])  # the loss has a named part


def test_averaged_weights_have_averaged_statistics_and_frozen_parameters_change_neither():
    states, _ = trained(ema_decay=DECAY)
    expected = np.zeros(6)
    for state in states[1:]:
        expected = DECAY * expected + (1 - DECAY) * statistic(state, "mean")
    np.testing.assert_allclose(statistic(states[-1], "mean", "ema_statistics"), expected, rtol=1e-5)
    assert states[-1].result.statistics is states[-1].ema_statistics
    assert states[-1].result.params is states[-1].ema


def test_a_skipped_update_does_not_change_the_statistics():
    broken = INPUTS.copy()
    broken[1, 0, 0] = np.nan
    states, metrics = trained(inputs=broken, ema_decay=DECAY)
    assert metrics["train/skipped"] == 1
    for tree in ("statistics", "ema_statistics"):
        for name in ("mean", "var"):
            np.testing.assert_array_equal(statistic(states[2], name, tree), statistic(states[1], name, tree))
            assert np.isfinite(statistic(states[3], name, tree)).all()


@pytest.mark.parametrize("accumulate_steps", [1, 4])
def test_an_update_whose_new_statistics_are_infinite_is_skipped(accumulate_steps):
    broken = INPUTS.copy()
    broken[1, 0, 0] = 3e19  # its square overflows, so the variance is infinite and the normalized column is 0
    states, metrics = trained(inputs=broken, ema_decay=DECAY, accumulate_steps=accumulate_steps)
    assert metrics["train/skipped"] == 1
    assert np.isfinite(optax.tree.norm(states[2].params))
    for tree in ("statistics", "ema_statistics"):
        for name in ("mean", "var"):
            np.testing.assert_array_equal(statistic(states[2], name, tree), statistic(states[1], name, tree))
            assert np.isfinite(statistic(states[3], name, tree)).all()
    assert np.isfinite(metrics["train/statistics_max"])


def test_statistics_are_restored_bitwise_equal_on_another_mesh(tmp_path):
    states, _ = trained(ema_decay=DECAY)
    checkpoints = Checkpoints(tmp_path, "eval/loss", keep_latest=1, keep_best=0)
    checkpoints.save(3, states[-1].items(), {"config": {}}, None)
    checkpoints.wait()
    like = abstract_state(*spec_on(8, ema_decay=DECAY))
    restored = TrainState.from_items(checkpoints.restore(3, like.items()))
    checkpoints.close()
    for name, leaf in named_leaves(restored.items()).items():
        np.testing.assert_array_equal(leaf, named_leaves(states[-1].items())[name], err_msg=name)
    loaded = load_statistics(tmp_path / "checkpoints" / "3", like.statistics)
    np.testing.assert_array_equal(named_leaves(loaded)["norm/mean"], statistic(restored, "mean", "ema_statistics"))


@pytest.mark.parametrize("head", ["keep", "drop"])
def test_a_run_from_weights_begins_with_their_statistics(head, tmp_path):
    states, _ = trained(ema_decay=DECAY)
    checkpoints = Checkpoints(tmp_path, "eval/loss", keep_latest=1, keep_best=0)
    checkpoints.save(3, states[-1].items(), {"config": {}}, None)
    checkpoints.close()
    spec, init = spec_on(ema_decay=DECAY)
    like = abstract_variables(init, spec.mesh)
    if head == "drop":  # a new classifier may have statistics that differ from the checkpoint's
        like.statistics["head"] = {"count": jax.ShapeDtypeStruct((3,), jnp.float32)}
    config = load_config("configs/quickstart.py", [f"--config.init_from={tmp_path}", f"--config.init_head={head}"])

    def load(path, like, *, which):
        return load_into(path, model_config(config), like.params, statistics=like.statistics, head=head, which=which)

    task = SimpleNamespace(load=load, start_from=lambda loaded, path: None)
    _, initial, _ = start_task(config, task, None, None, like)
    state, start = first_state(spec, init, SimpleNamespace(latest_step=None), initial)
    assert "averaged weights" in start
    for tree in ("statistics", "ema_statistics"):
        for name in ("mean", "var"):
            theirs = statistic(states[-1], name, "ema_statistics")
            np.testing.assert_array_equal(statistic(state, name, tree), theirs)
    assert (
        state.statistics["norm"]["mean"] is not state.ema_statistics["norm"]["mean"]
    )  # they must differ, because one of them is donated


def test_a_model_without_statistics_is_stored_as_before():
    spec, _ = spec_on()
    state = TrainState(jnp.zeros(()), {"kernel": jnp.zeros(2)}, (), {})
    assert state.items().keys() == {"params", "training"}
    assert TrainState.from_items(state.items()).statistics == {}
    assert merge_model(spec.graph, init_state(*spec_on()).result)(jnp.ones((2, 6))).shape == (2,)
