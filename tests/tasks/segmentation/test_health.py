"""Neither batches without classes nor NaNs corrupt the variables of a run."""

import jax
import numpy as np
import pytest

from focalnet_jax.data.masks import IGNORED
from focalnet_jax.distributed.mesh import put_batch
from focalnet_jax.parameters import named_leaves
from tests.tasks.segmentation.test_meshes import batches, begin


@pytest.fixture(scope="module")
def begun():
    return begin((1, 1, 1))  # a program that test_meshes.py compiles too


def with_broken(state, name, value):
    """Returns a copy of a state in which one number of a parameter is replaced, and all variables before the change."""
    state = jax.tree.map(np.array, state)
    named_leaves(state.params)[name].flat[0] = value
    return state


def copied(state):
    return {name: np.array(leaf) for name, leaf in named_leaves(state.items()).items() if "count" not in name}


@pytest.mark.parametrize("name", ["backbone/patch_embed/proj/kernel", "decode_head/fpn_bottleneck/bn/scale"])
@pytest.mark.parametrize("broken", [np.nan, np.inf])
@pytest.mark.fault(25)
def test_an_update_of_a_segmenter_that_is_nan_changes_neither_parameters_nor_statistics(begun, name, broken):
    state, step, mesh = begun
    first, second, third = (put_batch(batch, mesh) for batch in batches())
    state, metrics = step(jax.tree.map(np.array, state), first)
    assert np.isfinite(metrics["train/statistics_max"])
    state = with_broken(state, name, broken)
    before = copied(state)
    state, metrics = step(state, second)
    assert int(metrics["train/skipped"]) == 1
    after = copied(state)
    for key in before:
        if not key.startswith(("training/step", "training/health")):
            np.testing.assert_array_equal(after[key], before[key], err_msg=key)
    assert all(np.isfinite(leaf).all() for leaf in named_leaves(jax.device_get(state.statistics)).values())
    state, metrics = step(with_broken(state, name, 0.5), third)
    assert int(metrics["train/skipped_in_a_row"]) == 0
    assert np.isfinite(metrics["train/loss"])


@pytest.mark.fault(57)
def test_a_batch_of_ignored_pixels_has_a_loss_of_zero_and_is_a_step(begun):
    state, step, mesh = begun
    batch = next(batches())
    batch["mask"][:] = IGNORED
    state, metrics = step(jax.tree.map(np.array, state), put_batch(batch, mesh))
    assert float(metrics["train/loss"]) == float(metrics["train/grad_norm"]) == 0
    assert int(metrics["train/skipped"]) == 0
    assert all(np.isfinite(leaf).all() for leaf in copied(state).values())
