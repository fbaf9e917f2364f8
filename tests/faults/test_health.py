"""Updates with a NaN or infinite loss or a loss spike are skipped and counted, and change nothing else."""

import re
import signal
import time
from contextlib import closing
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from focalnet_jax.checkpoint.preemption import StopRequest
from focalnet_jax.checkpoint.steps import list_steps
from focalnet_jax.checkpoint.weights import read_arrays
from focalnet_jax.distributed.mesh import make_mesh, put_batch
from focalnet_jax.errors import RunFailedError
from focalnet_jax.parameters import named_leaves
from focalnet_jax.programs.config_files import load_config
from focalnet_jax.training.data import open_train_data
from focalnet_jax.training.health import fresh_health, judge
from focalnet_jax.training.loop import _Loop
from focalnet_jax.training.run import set_up
from focalnet_jax.training.state import init_state
from focalnet_jax.training.step import make_train_step
from focalnet_jax.training.watchdog import Watchdog
from focalnet_jax.training.writers import IN_A_ROW, NoWriter
from tests.commands import SMALL, first_line, run, start
from tests.specs import open_spec


@pytest.fixture(scope="module")
def spec():
    config = load_config("configs/quickstart.py", [*SMALL[1:], "--config.ema_decay=0.9", "--config.batch_size=16"])
    mesh = make_mesh({"data": 1, "fsdp": 1, "tensor": 1})
    spec, init = open_spec(config, mesh)
    return spec, init, open_train_data(config, mesh, spec.task)


def copied(state):
    return {name: np.array(leaf) for name, leaf in named_leaves(state.items()).items()}


@pytest.mark.fault(25)
@pytest.mark.parametrize("broken", [np.nan, np.inf, 3e38])
def test_an_update_that_is_nan_or_infinite_changes_only_the_counters(spec, broken):
    spec, init, data = spec
    state, step = init_state(spec, init), make_train_step(spec)
    batches = [put_batch(batch, spec.mesh) for batch in data.batches(0, 3)]
    state, _ = step(state, batches[0])
    # Changes a weight of the classifier, like a flipped bit in memory: the loss, or only its gradient, is not finite.
    good = state.params["head"]["kernel"]
    state.params["head"]["kernel"] = good.at[0, 0].set(broken)
    before = copied(state)
    state, metrics = step(state, batches[1])
    assert not np.isfinite([metrics["train/loss"], metrics["train/grad_norm"]]).all()
    after = copied(state)
    counted = {"training/step": 2, "training/health/skipped": 1, "training/health/in_a_row": 1}
    for name, leaf in after.items():
        if name in counted:
            assert leaf == counted[name]
        elif not np.array_equal(leaf, before[name], equal_nan=True):  # only the schedule's count may differ
            assert name.endswith("count"), name
            assert leaf == before[name] + 1
    state.params["head"]["kernel"] = good
    state, metrics = step(state, batches[2])
    assert np.isfinite(metrics["train/loss"])
    assert (metrics["train/skipped"], metrics["train/skipped_in_a_row"]) == (1, 0)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.items()))


def judged(losses, factor):
    health, made = fresh_health(), []
    step = jax.jit(lambda health, loss: judge(health, loss, jnp.ones(()), factor))
    for loss in losses:
        good, health = step(health, jnp.float32(loss))
        made.append(bool(good))
    return made, {name: float(value) for name, value in health.items()}


@pytest.mark.fault(26)
def test_loss_spikes_are_skipped_and_do_not_count_towards_the_mean():
    usual = list(2 + 0.1 * np.sin(np.arange(60)))
    made, health = judged([*usual, 50, np.nan, 50, 1e30, 2.0, 50], 3.0)
    assert made == [True] * 60 + [False] * 4 + [True, False]
    assert health["mean_loss"] == pytest.approx(2, abs=0.1)
    assert (health["skipped"], health["in_a_row"], health["made"]) == (5, 1, 61)


def test_no_loss_is_a_spike_before_the_usual_is_known_or_without_a_factor():
    assert all(judged([1.0, 100.0, 1.0], 3.0)[0])
    assert all(judged([*[2.0] * 60, 500.0], 0.0)[0])


def test_the_learning_rate_advances_over_skipped_updates(spec):
    spec, init, data = spec
    step, ends = make_train_step(spec), []
    for broken in (True, False):
        state = init_state(spec, init)
        kernel = state.params["head"]["kernel"]
        kept = jnp.array(kernel)
        for index, batch in enumerate(data.batches(0, 4)):
            if broken and index == 1:
                state.params["head"]["kernel"] = jnp.full_like(kept, jnp.nan)
            state, metrics = step(state, put_batch(batch, spec.mesh))
            if broken and index == 1:
                state.params["head"]["kernel"] = kept
        counts = {name: leaf for name, leaf in copied(state).items() if name.endswith("count")}
        ends.append((float(metrics["train/learning_rate"]), sorted(map(int, counts.values()))))
    assert ends[0][0] == ends[1][0]
    assert ends[1][1] == [4, 4]  # the counts of Adam and of the schedule
    assert ends[0][1] == [3, 4]


@pytest.mark.fault(25)
def test_a_run_whose_loss_is_nan_or_infinite_fails_and_saves_nothing(tmp_path):
    arguments = [*SMALL, "--config.schedule.learning_rate=1e20", "--config.schedule.warmup_steps=0"]
    done = run("train.py", *arguments, "--config.optimizer.clip_norm=0", "--workdir", tmp_path)
    assert done.returncode == 1
    assert re.search(r"train/\w+ is (nan|inf)", done.stderr)
    assert len(done.stderr.splitlines()) == 1
    assert not [entry for entry in (tmp_path / "checkpoints").iterdir() if entry.name.isdigit()]
    # Nothing was saved, so the advice of the error can be followed in the same workdir.
    again = run("train.py", *SMALL, "--config.total_steps=1", "--workdir", tmp_path)
    assert again.returncode == 0, again.stderr


@pytest.mark.fault(25)
def test_parameters_that_are_nan_or_infinite_are_not_saved_after_a_finite_loss(tmp_path):
    rate = ["--config.schedule.learning_rate=1e39", "--config.schedule.warmup_steps=5"]
    every = ["--config.optimizer.clip_norm=0", "--config.checkpoint_every_steps=1"]
    done = run("train.py", *SMALL, *rate, *every, "--workdir", tmp_path)
    assert done.returncode == 1
    assert "not saved: train/param_norm is" in done.stdout
    saved = list_steps(tmp_path / "checkpoints")
    message = f"the last good checkpoint is step {saved[-1]}" if saved else "there is no checkpoint"
    assert message in done.stderr
    for step in saved:
        arrays = read_arrays(tmp_path / "checkpoints" / str(step), "params").values()
        assert all(np.isfinite(array).all() for array in arrays)


@pytest.mark.fault(25)
def test_a_stopped_run_does_not_save_parameters_that_are_nan_or_infinite(tmp_path):
    arguments = [*SMALL, "--config.schedule.learning_rate=1e20", "--config.schedule.warmup_steps=0"]
    # Nothing checks the loss before the signal, because nothing is logged or evaluated.
    rare = ["--config.optimizer.clip_norm=0", "--config.total_steps=10000000", "--config.log_every_steps=10000000"]
    process = start("train.py", *arguments, *rare, "--workdir", tmp_path)
    first_line(process, "first step")
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=150)
    assert process.returncode == 1
    assert "is nan" in stderr
    assert not [entry for entry in (tmp_path / "checkpoints").iterdir() if entry.name.isdigit()]


class Broken:
    """A task whose loss is NaN."""

    def __init__(self, task):
        self._task = task

    def __getattr__(self, name):
        return getattr(self._task, name)

    def loss(self, model, batch, keys):
        """Returns NaN, whose gradients are NaN too."""
        loss, parts = self._task.loss(model, batch, keys)
        return loss * jnp.nan, parts


@pytest.mark.fault(25)
@pytest.mark.fault(26)
def test_a_skipped_update_only_postpones_a_save(tmp_path, capsys):
    config = load_config("configs/quickstart.py", [*SMALL[1:], "--config.batch_size=16"])
    one = set_up(config, tmp_path)
    good, broken = (make_train_step(replace(one.spec, task=task)) for task in (one.spec.task, Broken(one.spec.task)))
    spike = make_train_step(replace(one.spec, spike_factor=2.0))
    batches = one.train_data.batches(0, 10)

    def advance(step):
        one.state, one.metrics = step(one.state, put_batch(next(batches), one.spec.mesh))
        one.step += 1

    def saved():
        one.checkpoints.wait()
        return list_steps(tmp_path / "checkpoints")

    advance(broken)
    one.save()
    assert (saved(), one.owes_save) == ([], True)
    assert "step 1: not saved yet: 1 updates in a row were skipped (train/loss is nan" in capsys.readouterr().out
    advance(good)
    one.save()
    assert (saved(), one.owes_save) == ([2], False)
    advance(broken)
    one.save(last=True)  # as after a signal: nothing is lost
    assert (saved(), one.owes_save) == ([2, 3], False)
    usual = one.state.health | {"made": jnp.int32(60), "mean_loss": jnp.float32(1e-3)}
    one.state = replace(one.state, health=usual)
    advance(spike)  # the loss is finite, so the state may be saved
    assert one.read_metrics()[IN_A_ROW] == 2
    one.save()
    assert (saved(), one.owes_save) == ([2, 3, 4], False)
    one.state.params["head"]["kernel"] = jnp.full_like(one.state.params["head"]["kernel"], jnp.inf)
    advance(good)
    with pytest.raises(RunFailedError, match="train/param_norm is inf"):
        one.save(last=True)
    assert saved() == [2, 3, 4]
    one.checkpoints.close()


@pytest.mark.fault(13)
@pytest.mark.fault(25)
def test_processes_that_stop_after_an_evaluation_make_a_postponed_save(tmp_path):
    stop = StopRequest(25.0)

    class Writer(NoWriter):
        def write(self, step, values):
            """Imitates a signal during the evaluation."""
            if "eval/top1" in values:
                stop.received = signal.SIGTERM

    config = load_config("configs/quickstart.py", [*SMALL[1:], "--config.batch_size=16", "--config.eval_every_steps=1"])
    one = set_up(config, tmp_path)
    one.spec = replace(one.spec, task=Broken(one.spec.task))
    with closing(Watchdog(900.0)) as watchdog, closing(one.checkpoints):
        loop = _Loop(one, Writer(), stop, watchdog, tmp_path)
        loop.alone = False  # as in a run with several processes, which finish an evaluation before they stop
        assert loop.run_to_end()
        one.checkpoints.wait()
    assert (one.step, list_steps(tmp_path / "checkpoints")) == (1, [1])
