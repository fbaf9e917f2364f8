"""Detections of the four detectors are mmdetection's: boxes, classes, scores and masks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from focalnet_jax.data.paste import paste
from focalnet_jax.tasks.detection.atss import ATSSMethod
from focalnet_jax.tasks.detection.mask_rcnn import CASCADE, MASK_RCNN, MaskRCNNMethod, Sampling
from focalnet_jax.tasks.detection.options import Options
from focalnet_jax.tasks.detection.rpn import RPN
from focalnet_jax.tasks.detection.sparse_rcnn import SparseRCNNMethod
from parity.detector_errors import CLASSES, CONFIG, OPTIONS
from parity.detectors import DETECTORS, build, ours_from, sample
from parity.measure import photos
from parity.upernet import pixels

pytestmark = pytest.mark.filterwarnings("ignore")

SIZE = (128, 160)
ALL = 10_000  # scores that non-maximum suppression considers: all of them, as in mmdetection


def method_of(name):
    options = Options(
        iou=0.6 if name == "atss" else 0.5, score=0.0 if name == "sparse_rcnn" else 0.05, nms_candidates=ALL
    )
    if name == "atss":
        return ATSSMethod(CLASSES, 5, options)
    if name == "sparse_rcnn":
        return SparseRCNNMethod(CLASSES, 40, options)
    cascade = name.startswith("cascade")
    return MaskRCNNMethod(CLASSES, 5, options, Sampling(), RPN(), CASCADE if cascade else MASK_RCNN)


def tame(model):
    """Returns the model with small deltas, so that boxes stay inside the image and overlap."""
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if any(part in key for part in ("rpn_reg", "fc_reg", "atss_reg")):
                parameter *= 0.2
            if "init_proposal_bboxes" in key:
                parameter.uniform_(0.2, 0.6)
    return model.eval()


@pytest.mark.parametrize("name", DETECTORS)
def test_detections_are_mmdetections(name):
    options = OPTIONS[name] | ({"proposals": 40} if name == "sparse_rcnn" else {})
    theirs = tame(build(name, CONFIG, CLASSES, **options))
    ours, method = ours_from(theirs, name, CONFIG, CLASSES, **options), method_of(name)
    image = photos(*SIZE)[:1]
    nothing = np.zeros((0, 4)), np.zeros(0)
    with torch.no_grad():
        expected = theirs.predict(pixels(image), [sample(SIZE, SIZE, *nothing)], rescale=True)[0].pred_instances
    batch = {"image": image, "size": np.array([SIZE], np.int32), "scale": np.ones((1, 4), np.float32)}
    graph, state = nnx.split(ours)
    detect = jax.jit(lambda state, batch: method.detect(nnx.merge(graph, state), batch))
    found = jax.tree.map(lambda each: np.asarray(each)[0], detect(state, jax.tree.map(jnp.asarray, batch)))
    assert found.finite
    assert not found.overflow
    used = found.labels >= 0
    assert used.sum() > 30
    boxes, scores, labels = (each.numpy() for each in (expected.bboxes, expected.scores, expected.labels))
    # Neighbours whose scores differ by less than the rounding may be in another order.
    near = np.abs(boxes[:, None] - found.boxes[used]).max(axis=-1) + 1e3 * (labels[:, None] != found.labels[used])
    pairs = near.argmin(axis=1)
    assert sorted(pairs) == list(range(len(labels)))
    np.testing.assert_array_less(near.min(axis=1), 1e-3)  # pixels
    np.testing.assert_allclose(found.scores[used][pairs], scores, rtol=1e-5, atol=1e-6)
    if found.masks is not None:
        mine = np.stack([paste(*each, SIZE) for each in zip(found.masks[used], found.boxes[used], strict=True)])
        # Single pixels have a probability of nearly 0.5.
        assert (mine[pairs] != expected.masks.numpy()).mean() < 1e-5
