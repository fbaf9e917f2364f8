"""The average of the weights is computed, saved, restored and used as the result."""

import jax
import numpy as np
import pytest

from focalnet_jax.checkpoint.manager import Checkpoints
from focalnet_jax.config import model_config
from focalnet_jax.convert.load import load_into
from focalnet_jax.distributed.mesh import make_mesh, put_batch
from focalnet_jax.model.variants import model_metadata
from focalnet_jax.parameters import named_leaves
from focalnet_jax.programs.config_files import load_config
from focalnet_jax.training.state import TrainState, abstract_state, abstract_variables, init_state
from focalnet_jax.training.step import make_train_step
from tests.commands import EVERY, SMALL, losses, metrics, run, saved_params
from tests.specs import open_spec, train_batches_of

DECAY = 0.75
OVERRIDES = [*SMALL[1:], "--config.model.depths=(1,)", f"--config.ema_decay={DECAY}", "--config.batch_size=8"]


@pytest.fixture(scope="module")
def setting():
    config = load_config("configs/quickstart.py", OVERRIDES)
    mesh = make_mesh({"data": 1, "fsdp": 1, "tensor": 1})
    return config, *open_spec(config, mesh, warmup_steps=0, total_steps=10)


@pytest.fixture(scope="module")
def states(setting):
    """The states after 0, 1, 2 and 3 steps, on the host."""
    config, spec, init = setting
    state, step = init_state(spec, init), make_train_step(spec)
    seen = [jax.device_get(state)]
    for batch in train_batches_of(config, spec, 3):
        state, _ = step(state, put_batch(batch, spec.mesh))
        seen.append(jax.device_get(state))
    return seen


def test_every_step_moves_the_average_towards_the_weights_by_one_minus_decay(states):
    expected = {name: leaf.astype(np.float64) for name, leaf in named_leaves(states[0].params).items()}
    for state in states:
        for name, leaf in named_leaves(state.params).items():
            if state.step:
                expected[name] = DECAY * expected[name] + (1 - DECAY) * leaf
            np.testing.assert_allclose(named_leaves(state.ema)[name], expected[name], rtol=1e-5, atol=1e-7)
    assert not np.array_equal(states[3].ema["head"]["kernel"], states[3].params["head"]["kernel"])


def test_the_average_of_what_is_frozen_stays_as_it_is(setting):
    config, *_ = setting
    frozen = "--config.optimizer.learning_rate_scales=(('^stages/', 0),)"
    frozen = load_config("configs/quickstart.py", [*OVERRIDES, frozen])
    spec, init = open_spec(frozen, setting[1].mesh, warmup_steps=0, total_steps=10)
    state, step = init_state(spec, init), make_train_step(spec)
    before = jax.device_get(state.params["stages"])
    for batch in train_batches_of(config, spec, 3):
        state, _ = step(state, put_batch(batch, spec.mesh))
    for tree in (state.params, state.ema):
        for name, leaf in named_leaves(tree["stages"]).items():
            np.testing.assert_array_equal(leaf, named_leaves(before)[name], err_msg=name)
    assert not np.array_equal(state.ema["head"]["kernel"], state.params["head"]["kernel"])


def test_a_checkpoint_gives_back_both_and_its_result_is_the_average(setting, states, tmp_path):
    config, spec, init = setting
    metadata = {"model": model_metadata(config.model.name, model_config(config)), "config": {}, "classes": []}
    checkpoints = Checkpoints(tmp_path, "eval/top1", keep_latest=1, keep_best=0)
    checkpoints.save(3, states[3].items(), metadata, None)
    checkpoints.wait()
    restored = TrainState.from_items(checkpoints.restore(3, abstract_state(spec, init).items()))
    checkpoints.close()
    for name, leaf in named_leaves(restored.items()).items():
        np.testing.assert_array_equal(leaf, named_leaves(states[3].items())[name], err_msg=name)
    loaded = load_into(str(tmp_path), model_config(config), abstract_variables(init, spec.mesh).params)
    assert loaded.source.endswith("3 (averaged weights)")
    for name, leaf in named_leaves(loaded.params).items():
        np.testing.assert_array_equal(leaf, named_leaves(states[3].ema)[name], err_msg=name)


def test_a_run_with_an_average_resumes_bit_for_bit_and_is_evaluated_by_it(tmp_path):
    averaged = [*SMALL, *EVERY, "--config.total_steps=14", "--config.schedule.warmup_steps=2", "--config.ema_decay=0.9"]
    whole = run("train.py", *averaged, "--workdir", tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    (tmp_path / "part" / "checkpoints").mkdir(parents=True)
    (tmp_path / "whole" / "checkpoints" / "7").rename(tmp_path / "part" / "checkpoints" / "7")
    again = run("train.py", *averaged, "--workdir", tmp_path / "part")
    assert "resumed from step 7" in again.stdout, again.stderr
    assert losses(tmp_path / "part") == {s: loss for s, loss in losses(tmp_path / "whole").items() if s > 7}
    for item in ("params", "ema"):
        whole_run, part = (saved_params(tmp_path / name, 14, item) for name in ("whole", "part"))
        assert whole_run == part
    done = run("eval.py", *averaged, "--checkpoint", tmp_path / "whole")
    assert f'"loss": {metrics(tmp_path / "whole")[-1]["eval/loss"]}' in done.stdout
    assert "averaged weights" in done.stdout
