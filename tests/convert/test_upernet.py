"""UPerNet computes what mmsegmentation's computes with the same weights, which parity.golden has written."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from focalnet_jax.convert.tables_upernet import tensors_to_variables, variables_to_tensors
from focalnet_jax.errors import UserError
from focalnet_jax.model import FocalNetConfig
from focalnet_jax.model.heads.upernet import UPerNet
from focalnet_jax.model.precision import get_precision
from focalnet_jax.parameters import named_leaves
from tests.convert.golden_files import GOLDEN

# The same config and heads in parity/golden.py.
CONFIG = FocalNetConfig(embed_dim=4, depths=(1, 1, 1, 1), focal_levels=2, focal_windows=9, drop_path_rate=0.0)
HEADS = dict(channels=6, auxiliary_channels=5)


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "upernet.npz") as file:
        return {name: file[name] for name in file.files}


def of(golden, part):
    """Returns mmsegmentation's tensors of a part of the file, by mmsegmentation's names."""
    return {name.removeprefix(f"{part}/"): array for name, array in golden.items() if name.startswith(f"{part}/")}


@pytest.fixture(scope="module")
def model(golden):
    ours = nnx.eval_shape(lambda: UPerNet(CONFIG, 3, precision=get_precision("float32"), rngs=nnx.Rngs(0), **HEADS))
    graph, state = nnx.split(ours)
    variables = tensors_to_variables(of(golden, "weights"), nnx.to_pure_dict(state), CONFIG, "mmseg")
    nnx.replace_by_pure_dict(state, jax.tree.map(jnp.asarray, variables))
    return nnx.merge(graph, state)


def relative(ours, theirs):
    return np.linalg.norm(np.asarray(ours) - theirs) / np.linalg.norm(theirs)


def test_logits_and_statistics_are_mmsegmentations(model, golden):
    images = golden["images"].astype(np.float32)
    graph, state = nnx.split(model)

    @jax.jit
    def run(state):
        model = nnx.merge(graph, state)
        return model(images), model(images, train=True), nnx.state(model)

    logits, (training, auxiliary), after = run(state)
    assert logits.shape == (3, 10, 13, 3)
    assert auxiliary.shape == (3, 3, 4, 3)
    # float32 on both sides, summed in different orders
    assert relative(logits, golden["logits"]) < 1e-5
    assert relative(training, golden["training_logits"]) < 1e-5
    assert relative(auxiliary, golden["auxiliary_logits"]) < 1e-5
    written = dict(variables_to_tensors(nnx.to_pure_dict(after), CONFIG, "mmseg"))
    for name, array in of(golden, "after").items():
        assert relative(written[name], array) < 1e-5, name


def test_conversion_there_and_back_is_exact_and_complete(model, golden):
    written = dict(variables_to_tensors(nnx.to_pure_dict(nnx.state(model)), CONFIG, "mmseg"))
    weights = of(golden, "weights")
    assert written.keys() == weights.keys()
    for name, array in written.items():
        np.testing.assert_array_equal(array, weights[name], err_msg=name)
    assert written["decode_head.bottleneck.bn.num_batches_tracked"].dtype == np.int64


def test_tensors_that_do_not_fit_are_named(model, golden):
    weights = of(golden, "weights")
    like = nnx.to_pure_dict(nnx.state(model))
    with pytest.raises(UserError, match=r"missing decode_head.conv_seg.bias; not used backbone.head.weight"):
        tensors_to_variables(
            {name: each for name, each in weights.items() if name != "decode_head.conv_seg.bias"}
            | {"backbone.head.weight": np.zeros((3, 32))},
            like,
            CONFIG,
            "mmseg",
        )
    wrong = weights | {"decode_head.bottleneck.bn.running_var": np.ones(7)}
    with pytest.raises(UserError, match=r"decode_head.bottleneck.bn.running_var is \(7,\), expected \(6,\)"):
        tensors_to_variables(wrong, like, CONFIG, "mmseg")
    assert named_leaves(like).keys() == named_leaves(tensors_to_variables(weights, like, CONFIG, "mmseg")).keys()
