"""Detectors compute what mmdetection's compute with the same weights, which parity.golden_detectors has written."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from focalnet_jax.convert.read_upernet import variant_of
from focalnet_jax.convert.tables_detection import tensors_to_variables, variables_to_tensors
from focalnet_jax.errors import UserError
from focalnet_jax.model import FocalNetConfig
from focalnet_jax.model.precision import get_precision
from tests.convert.golden_detectors import CLASSES, CONFIG, DETECTORS, OPTIONS, all_outputs
from tests.convert.golden_files import GOLDEN


@pytest.fixture(scope="module", params=DETECTORS)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def golden(name):
    with np.load(GOLDEN / f"{name}.npz") as file:
        return {key: file[key] for key in file.files}


def of(golden, part):
    """Returns the arrays of a part of the file, by the names that they have in it."""
    return {key.removeprefix(f"{part}/"): array for key, array in golden.items() if key.startswith(f"{part}/")}


@pytest.fixture(scope="module")
def model(name, golden):
    options = dict(precision=get_precision("float32"), **OPTIONS[name])
    graph, state = nnx.split(nnx.eval_shape(lambda: DETECTORS[name](CONFIG, CLASSES, rngs=nnx.Rngs(0), **options)))
    variables = tensors_to_variables(of(golden, "weights"), nnx.to_pure_dict(state), CONFIG, name)
    nnx.replace_by_pure_dict(state, jax.tree.map(jnp.asarray, variables))
    return nnx.merge(graph, state)


def relative(ours, theirs):
    return np.linalg.norm(np.asarray(ours) - theirs) / np.linalg.norm(theirs)


def test_outputs_and_statistics_are_mmdetections(name, model, golden):
    images = golden["images"].astype(np.float32)
    graph, state = nnx.split(model)

    @jax.jit
    def run(state):
        model = nnx.merge(graph, state)
        outputs = all_outputs(model, images)
        if "cascade" in name:
            all_outputs(model, images, train=True)
        return outputs, nnx.state(model)

    found, after = run(state)
    expected = of(golden, "outputs")
    assert len(found) == len(expected)
    for index, output in enumerate(found):
        assert output.dtype == jnp.float32
        assert output.shape == expected[str(index)].shape
        # float32 on both sides, summed in different orders
        assert relative(output, expected[str(index)]) < 1e-5, index
    written = dict(variables_to_tensors(nnx.to_pure_dict(after), CONFIG, name))
    statistics = of(golden, "after")
    assert bool(statistics) == ("cascade" in name)
    for key, array in statistics.items():
        assert relative(written[key], array) < 1e-5, key


def test_conversion_there_and_back_is_exact_and_complete(name, model, golden):
    written = dict(variables_to_tensors(nnx.to_pure_dict(nnx.state(model)), CONFIG, name))
    weights = of(golden, "weights")
    assert written.keys() == weights.keys()
    for key, array in written.items():
        np.testing.assert_array_equal(array, weights[key], err_msg=key)
        assert array.shape == weights[key].shape
        assert array.dtype == (np.int64 if key.endswith("tracked") else np.float32)


def test_tensors_that_do_not_fit_are_named(name, model, golden):
    like, weights = nnx.to_pure_dict(nnx.state(model)), of(golden, "weights")
    removed = weights.pop("neck.lateral_convs.0.conv.bias")
    with pytest.raises(UserError, match=r"missing neck.lateral_convs.0.conv.bias; not used backbone.head.weight"):
        tensors_to_variables(weights | {"backbone.head.weight": np.zeros((3, 32))}, like, CONFIG, name)
    wrong = weights | {"neck.lateral_convs.0.conv.bias": np.zeros(len(removed) + 1)}
    with pytest.raises(UserError, match=r"neck.lateral_convs.0.conv.bias is \(\d+,\), expected \(\d+,\)"):
        tensors_to_variables(wrong, like, CONFIG, name)


def test_a_model_of_three_stages_with_windows_per_stage_is_no_released_variant():
    config = FocalNetConfig(embed_dim=96, depths=(2, 2, 6), focal_levels=2, focal_windows=(11, 9, 9))
    assert variant_of(config) is None
