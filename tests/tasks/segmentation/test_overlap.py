"""Metrics equal mmsegmentation's IoUMetric, over images and batches of any sizes."""

import numpy as np
import pytest

from focalnet_jax.data.masks import IGNORED
from focalnet_jax.data.preprocessing import USUAL
from focalnet_jax.tasks.segmentation.overlap import Overlap

CLASSES = 5


def drawn():
    """Returns pairs of a true and a predicted mask, in which class 4 does not occur and class 3 is never wrong."""
    draw, pairs = np.random.default_rng(0), []
    for _ in range(3):
        true = draw.integers(0, 4, (6, 7))
        true[draw.random((6, 7)) < 0.2] = IGNORED
        right = np.where(true == IGNORED, 1, true)
        pairs.append((true, np.where(draw.random((6, 7)) < 0.6, right, draw.integers(0, 3, (6, 7)))))
    return pairs


def measured(true, predicted, loss=0.0, examples=1.0):
    """Returns the result of `Overlap.measure` for a batch with these pixels."""
    known = true != IGNORED
    counts = [
        np.bincount(each, minlength=CLASSES)
        for each in (true[known & (true == predicted)], predicted[known], true[known])
    ]
    return dict(zip(("hits", "predicted", "true"), counts, strict=True)) | {
        "union_hits": [],
        "loss": loss,
        "examples": examples,
    }


def overlap():
    return Overlap(None, CLASSES, USUAL.normalization)


def test_sums_over_images_give_mmsegmentations_metrics():
    metrics = overlap()
    for true, predicted in drawn():
        metrics.add(measured(true, predicted, loss=2.0))
    # Printed by mmsegmentation 1.2.2 for the same masks: IoUs in float32, means rounded to two digits.
    np.testing.assert_allclose(metrics.class_ious(), [47.2222, 40.4762, 44.4444, 60.0, np.nan], atol=1e-4)
    found = metrics.result()
    assert {name: round(found[name], 2) for name in ("aacc", "miou", "macc")} == {
        "aacc": 64.15,
        "miou": 48.04,
        "macc": 64.44,
    }
    assert (found["loss"], found["examples"]) == (2.0, 3)


def test_the_order_and_the_size_of_batches_do_not_matter():
    one, other = overlap(), overlap()
    trues, predictions = (np.stack(each) for each in zip(*drawn(), strict=True))
    one.add(measured(trues, predictions, 6.0, 3.0))
    for true, predicted in reversed(drawn()):
        other.add(measured(true, predicted, 2.0))
    assert one.result() == other.result()
    one.reset()
    for true, predicted in drawn():
        one.add(measured(true, predicted, 2.0))
    assert one.result() == other.result()


def test_a_class_that_is_predicted_without_occurring_counts_as_zero():
    metrics = overlap()
    metrics.add(measured(np.array([[0, 0, IGNORED]]), np.array([[0, 1, 2]])))
    np.testing.assert_array_equal(metrics.class_ious(), [50, 0, np.nan, np.nan, np.nan])
    assert metrics.result()["miou"] == 25
    assert metrics.result()["macc"] == 50  # accuracy of class 0 alone, because class 1 has no true pixels


@pytest.mark.fault(27)
def test_metrics_are_nan_without_pixels_that_have_a_class():
    metrics = overlap()
    metrics.add(measured(np.full((2, 2), IGNORED), np.zeros((2, 2), int)))
    found = metrics.result()
    assert all(np.isnan(found[name]) for name in ("miou", "macc", "aacc"))
    assert found["examples"] == 1
