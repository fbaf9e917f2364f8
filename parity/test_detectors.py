"""The detectors compute the same as mmdetection's with the original's dense FocalNet."""

import numpy as np
import pytest
import torch
from flax import nnx

from focalnet_jax.convert.tables_detection import variables_to_tensors
from parity.detector_errors import CONFIG, SIZES, outputs_error, pair, training_errors
from parity.detectors import DETECTORS, arrays

pytestmark = pytest.mark.filterwarnings("ignore")  # mmdetection's advice about its anchors

# float32 on both sides, summed in different orders, as in test_upernet.py.
FLOAT32, GRADIENTS = 1e-5, 1e-4


@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_outputs_are_mmdetections(name, size):
    assert outputs_error(name, size) < FLOAT32


@pytest.mark.parametrize("name", DETECTORS)
def test_training_outputs_gradients_and_statistics_are_mmdetections(name):
    errors = training_errors(name)
    assert errors.outputs < FLOAT32
    assert errors.gradients < GRADIENTS
    assert errors.statistics < FLOAT32


@pytest.mark.parametrize("name", DETECTORS)
def test_conversion_there_and_back_is_exact_and_complete(name):
    theirs, ours = pair(name)
    written = dict(variables_to_tensors(nnx.to_pure_dict(nnx.state(ours)), CONFIG, name))
    given = arrays(theirs)
    assert written.keys() == given.keys()
    for key, array in written.items():
        np.testing.assert_array_equal(array, given[key], err_msg=key)
        assert (array.dtype, array.shape) == (given[key].dtype, given[key].shape)
    theirs.load_state_dict({key: torch.from_numpy(array) for key, array in written.items()})
