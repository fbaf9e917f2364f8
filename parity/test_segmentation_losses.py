"""Losses of pixels equal mmsegmentation's, and are the golden numbers of tests/tasks/segmentation/test_losses.py."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from focalnet_jax.data.masks import IGNORED
from parity import mmcv_stub
from tests.tasks.segmentation.test_losses import GOLDEN, RTOL, SUMS, WEIGHTED, WEIGHTS, drawn, value

mmcv_stub.install()
from mmseg.models.losses import CrossEntropyLoss  # noqa: E402
from mmseg.structures import OHEMPixelSampler  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # mmsegmentation's advice about its losses


def theirs(loss, logits, mask, **options):
    """Returns mmsegmentation's loss with the settings of a `PixelLoss`."""
    logits = torch.from_numpy(np.array(logits)).permute(0, 3, 1, 2)
    logits = torch.nn.functional.interpolate(logits, size=mask.shape[1:], mode="bilinear", align_corners=False)
    labels = torch.from_numpy(np.array(mask)).long()
    criterion = CrossEntropyLoss(class_weight=loss.class_weights or None, avg_non_ignore=loss.average == "valid")
    weight = None
    if loss.kept:
        context = SimpleNamespace(ignore_index=IGNORED, loss_decode=criterion)
        weight = OHEMPixelSampler(context, loss.threshold, loss.kept).sample(logits, labels[:, None])
    return criterion(logits, labels, weight=weight, ignore_index=IGNORED, **options).sum().item()


@pytest.mark.parametrize(
    ("loss", "golden", "labelled"), [(*case, False) for case in GOLDEN] + [(*case, True) for case in WEIGHTED]
)
def test_losses_are_mmsegmentations(loss, golden, labelled):
    arrays = drawn(labelled)
    expected = theirs(loss, *arrays)
    assert golden == pytest.approx(expected, rel=1e-6)
    assert value(loss, *arrays) == pytest.approx(expected, rel=RTOL)


@pytest.mark.parametrize(("loss", "golden"), SUMS)
def test_sums_with_weights_of_classes_are_mmsegmentations(loss, golden):
    assert golden == pytest.approx(theirs(loss, *drawn(), reduction_override="none"), rel=1e-6)


def test_mmsegmentation_has_no_mean_with_weights_of_classes_and_ignored_pixels():
    with pytest.raises(IndexError):
        theirs(SUMS[0][0], *drawn())
    assert SUMS[0][0].class_weights == WEIGHTS
