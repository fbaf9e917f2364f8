"""mmdetection's detectors, which other tests compare with, train and predict with maps as the backbone."""

import numpy as np
import pytest
import torch

from parity.mmdet_configs import CONFIGS, build, sample

pytestmark = pytest.mark.filterwarnings("ignore")

SIZE, DIMS = (64, 96), (8, 16, 24, 32)


@pytest.mark.parametrize("name", CONFIGS)
def test_losses_gradients_and_detections_are_finite(name):
    torch.manual_seed(0)
    model = build(name, DIMS, num_classes=3)
    maps = [
        torch.randn(1, dim, SIZE[0] // stride, SIZE[1] // stride)
        for dim, stride in zip(DIMS, (4, 8, 16, 32), strict=True)
    ]
    bitmaps = np.zeros((2, *SIZE), np.uint8)
    bitmaps[0, 5:40, 3:33] = bitmaps[1, 30:60, 50:90] = 1
    known = sample(SIZE, [[3, 5, 33, 40], [50, 30, 90, 60]], [0, 2], bitmaps)
    losses = model.loss(maps, [known])
    total = sum(sum(value) if isinstance(value, list) else value for key, value in losses.items() if "loss" in key)
    total.backward()
    assert torch.isfinite(total)
    assert all(torch.isfinite(each.grad).all() for each in model.parameters() if each.grad is not None)
    with torch.no_grad():
        found = model.predict(maps, [sample(SIZE)])[0].pred_instances
    assert len(found) <= 300
    assert torch.isfinite(found.bboxes).all()
    assert ("masks" in found) == ("mask" in name)
