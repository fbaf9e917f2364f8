"""Losses of Mask R-CNN, Cascade Mask R-CNN and Sparse R-CNN are mmdetection's, with the same samples."""

import pytest

from parity.region_losses import compare, errors

pytestmark = pytest.mark.filterwarnings("ignore")

TERMS, GRADIENTS = 1e-5, 1e-4  # float32 on both sides, summed in different orders, as in test_detectors.py


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", ["mask_rcnn", "cascade_mask_rcnn"])
def test_every_term_and_its_gradients_are_mmdetections(name, seed):
    mine, theirs = compare(name, seed)
    terms, gradients = errors(mine, theirs)
    assert all(value > 0 for value in theirs.terms.values())
    assert max(terms.values()) < TERMS
    assert max(gradients.values()) < GRADIENTS


@pytest.mark.parametrize("seed", [0, 1])
def test_every_term_of_sparse_rcnn_and_its_gradients_are_mmdetections(seed):
    mine, theirs = compare("sparse_rcnn", seed)
    terms, gradients = errors(mine, theirs)
    assert len(terms) == 18
    assert max(terms.values()) < TERMS
    assert max(gradients.values()) < GRADIENTS
