"""Losses of the detectors with RoIs are mmdetection's, which parity.golden_detectors has written."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from focalnet_jax.convert.tables_detection import tensors_to_variables
from focalnet_jax.model.precision import get_precision
from focalnet_jax.tasks.detection.mask_rcnn import CASCADE, MASK_RCNN, MaskRCNNMethod, Sampling
from focalnet_jax.tasks.detection.options import Options
from focalnet_jax.tasks.detection.rpn import RPN, Proposals
from focalnet_jax.tasks.detection.sparse_rcnn import SparseRCNNMethod
from tests.convert.golden_detectors import CLASSES, CONFIG, DETECTORS, OPTIONS, padded
from tests.convert.golden_files import GOLDEN

NAMES = ("mask_rcnn", "cascade_mask_rcnn")
SAMPLING = Sampling(candidates=300, proposals=200, rois=64, positives=16)  # those of parity.region_losses


def method_of(name):
    cascade = name == "cascade_mask_rcnn"
    rpn = RPN(smooth=1 / 9, crossing=False) if cascade else RPN()
    return MaskRCNNMethod(CLASSES, 5, Options(), SAMPLING, rpn, CASCADE if cascade else MASK_RCNN)


def read(file):
    with np.load(GOLDEN / file) as stored:
        return {key: stored[key] for key in stored.files}


def part(arrays, name):
    return {key.removeprefix(f"{name}/"): each for key, each in arrays.items() if key.startswith(f"{name}/")}


def detector(name, weights, options):
    """Returns the static part and the state of a detector with mmdetection's weights."""
    options = dict(precision=get_precision("float32"), **options)
    graph, state = nnx.split(nnx.eval_shape(lambda: DETECTORS[name](CONFIG, CLASSES, rngs=nnx.Rngs(0), **options)))
    variables = tensors_to_variables(weights, nnx.to_pure_dict(state), CONFIG, name)
    nnx.replace_by_pure_dict(state, jax.tree.map(jnp.asarray, variables))
    return graph, state


def assert_terms(found, expected):
    assert found.keys() == expected.keys()
    for key, value in found.items():
        np.testing.assert_allclose(value, expected[key], rtol=1e-4, err_msg=key)  # float32 on both sides


@pytest.mark.parametrize("name", NAMES)
def test_every_term_is_mmdetections(name):
    weights, golden, method = read(f"{name}.npz"), read(f"{name}_losses.npz"), method_of(name)
    graph, state = detector(name, part(weights, "weights"), OPTIONS[name])
    batch = part(golden, "batch") | {"image": padded(weights["images"])}
    keys = jax.random.split(jax.random.key(1), 2)

    @jax.jit
    def terms(state, batch):
        model = nnx.merge(graph, state)
        batch = batch | method.prepare(batch, jax.random.key(0))
        maps = model.maps(batch["image"])
        passes = method.passes(model, maps, batch, Proposals(**part(golden, "proposals")), keys)
        counts = jnp.array([[done.regions.used.sum(), done.regions.positive.sum()] for done in passes]) / 2
        return method.stage_losses(model, maps, batch, passes, counts, method.rpn_losses(model.rpn(maps), batch))[1]

    assert_terms(terms(state, jax.tree.map(jnp.asarray, batch)), part(golden, "terms"))


def test_every_term_of_sparse_rcnn_is_mmdetections():
    name = "sparse_rcnn"
    weights, golden = read(f"{name}.npz"), read(f"{name}_losses.npz")
    proposals = part(golden, "weights")  # with sides that are positive
    count = len(proposals["rpn_head.init_proposal_bboxes.weight"])
    graph, state = detector(name, part(weights, "weights") | proposals, OPTIONS[name] | {"proposals": count})
    method = SparseRCNNMethod(CLASSES, count, Options())
    batch = part(golden, "batch") | {"image": padded(weights["images"])}

    @jax.jit
    def terms(state, batch):
        batch = batch | method.prepare(batch, jax.random.key(0))
        return method.loss(nnx.merge(graph, state), batch, None)[1]

    found = terms(state, jax.tree.map(jnp.asarray, batch))
    assert len(found) == 18
    assert_terms(found, part(golden, "terms"))
