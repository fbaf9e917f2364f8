"""UPerNet computes the same as mmsegmentation's with the original's dense FocalNet."""

import numpy as np
import pytest
import torch
from flax import nnx

from focalnet_jax.convert.tables_upernet import variables_to_tensors
from focalnet_jax.parameters import named_leaves
from parity.measure import relative
from parity.upernet import arrays, both_logits
from parity.upernet_errors import (
    CONFIGS,
    SIZES,
    batch,
    full_size_errors,
    logits_error,
    pair,
    run_errors,
    training_errors,
    training_step,
    variables,
)

pytestmark = pytest.mark.filterwarnings("ignore")  # mmsegmentation's advice about its losses

# float32 on both sides, summed in different orders, as in test_models.py; gradients pass through twice the layers.
FLOAT32, GRADIENTS = 1e-5, 1e-4


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_logits_are_mmsegmentations(name, size):
    assert logits_error(name, size) < FLOAT32


@pytest.mark.parametrize("name", CONFIGS)
def test_training_logits_gradients_and_statistics_are_mmsegmentations(name):
    errors = training_errors(name)
    assert errors.logits < FLOAT32
    assert errors.gradients < GRADIENTS
    assert errors.smallest < GRADIENTS
    assert errors.statistics < FLOAT32


def test_running_statistics_are_torchs_after_five_steps():
    loss, statistics = run_errors()
    assert loss < FLOAT32
    assert statistics < FLOAT32


def test_the_comparison_sees_the_biased_variance():
    theirs, ours = pair("lrf")
    key, module = "decode_head/psp_modules/0/bn/var", theirs.decode_head.psp_modules[0][1]
    old = module.bn.running_var.numpy().copy()
    with torch.no_grad():
        both_logits(theirs.train(), batch())
    (_, (_, statistics)), _ = training_step("lrf")(*variables(ours), batch())
    biased = 0.9 * old + (named_leaves(statistics)[key] - 0.9 * old) * 3 / 4  # 4 images with one value per channel
    assert relative(biased, module.bn.running_var) > 10 * FLOAT32


@pytest.mark.parametrize("name", CONFIGS)
def test_conversion_there_and_back_is_exact_and_complete(name):
    theirs, ours = pair(name)
    written = dict(variables_to_tensors(nnx.to_pure_dict(nnx.state(ours)), CONFIGS[name], "mmseg"))
    given = arrays(theirs)
    assert written.keys() == given.keys()
    for key, array in written.items():
        np.testing.assert_array_equal(array, given[key], err_msg=key)
        assert array.dtype == given[key].dtype
    theirs.load_state_dict({key: torch.from_numpy(array) for key, array in written.items()})


def test_full_size_logits_are_mmsegmentations():
    errors = full_size_errors()
    assert errors.keys() == {(512, 512), (512, 683)}
    assert max(errors.values()) < FLOAT32
