"""Masks of boxes are interpolated into images at the centres of pixels."""

import numpy as np
import pytest

from focalnet_jax.data.paste import paste


def exact(mask, box, size, threshold=0.5):
    """Returns the pasted mask, in double precision, and where its values are within rounding of the threshold."""
    height, width = mask.shape
    padded = np.pad(np.float64(mask), 1)  # zeros outside
    x1, y1, x2, y2 = np.float64(box)
    values = np.zeros(size)
    for row in range(size[0]):
        for column in range(size[1]):
            y, x = (row + 0.5 - y1) / (y2 - y1) * height - 0.5, (column + 0.5 - x1) / (x2 - x1) * width - 0.5
            if -1 < y < height and -1 < x < width:
                top, left = int(np.floor(y)), int(np.floor(x))
                v, u = y - top, x - left
                corners = padded[top + 1 : top + 3, left + 1 : left + 3]
                values[row, column] = np.array([1 - v, v]) @ corners @ np.array([1 - u, u])
    return values >= threshold, abs(values - threshold) < 1e-4


@pytest.mark.parametrize("size", [(40, 50), (7, 90), (1, 1)], ids=str)
def test_pixels_are_those_of_the_interpolated_mask(size):
    rng = np.random.default_rng(0)
    compared = 0
    for _ in range(25):
        corner = rng.uniform(-10, [size[1], size[0]])
        box = np.float32([*corner, *(corner + rng.uniform(1, 50, 2))])
        mask = rng.random((28, 28)).astype(np.float32)
        expected, close = exact(mask, box, size)
        found = paste(mask, box, size)
        assert found.shape == size
        np.testing.assert_array_equal(found[~close], expected[~close])
        compared += expected[~close].sum()
    assert compared > 0


def test_a_mask_of_the_boxs_size_is_copied():
    mask = np.random.default_rng(1).random((28, 28)).astype(np.float32)
    found = paste(mask, np.float32([10, 5, 38, 33]), (40, 50))
    np.testing.assert_array_equal(found[5:33, 10:38], mask >= 0.5)
    assert found.sum() == (mask >= 0.5).sum()


def test_the_threshold_is_inclusive_and_selects():
    mask = np.full((4, 4), 0.25, np.float32)
    assert paste(mask, np.float32([0, 0, 4, 4]), (4, 4), threshold=0.25).all()
    assert not paste(mask, np.float32([0, 0, 4, 4]), (4, 4), threshold=0.26).any()


@pytest.mark.parametrize(
    "box",
    [(60, 5, 70, 9), (-30, 5, -20, 9), (5, 100, 9, 120), (np.nan, 0, 9, 9), (0, 0, np.inf, 9), (1e30, 0, 2e30, 9)],
    ids=str,
)
def test_boxes_outside_the_image_and_not_finite_ones_are_empty(box):
    assert not paste(np.ones((28, 28)), np.float32(box), (40, 50)).any()


def test_a_huge_box_covers_the_image():
    assert paste(np.ones((28, 28)), np.float32([-1e6, -1e6, 1e6, 1e6]), (40, 50)).all()
