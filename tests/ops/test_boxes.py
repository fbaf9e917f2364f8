"""Overlaps, encodings and anchors of boxes follow mmdetection's definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from focalnet_jax.ops.boxes import (
    anchor_sides,
    areas,
    decode,
    encode,
    giou,
    grid_anchors,
    inside_padded,
    iou,
    pairwise_iou,
)


def random_boxes(count, seed=0, size=200.0):
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, size, (count, 2))
    return np.concatenate([corners, corners + rng.uniform(1, size / 2, (count, 2))], axis=1).astype(np.float32)


def exact_overlaps(a, b, eps=1e-6):
    """Returns IoU and GIoU of two boxes, written with numbers in double precision."""
    x1, y1, x2, y2 = map(float, a)
    u1, v1, u2, v2 = map(float, b)
    both = max(0, min(x2, u2) - max(x1, u1)) * max(0, min(y2, v2) - max(y1, v1))
    union = max((x2 - x1) * (y2 - y1) + (u2 - u1) * (v2 - v1) - both, eps)
    around = max(max(0, max(x2, u2) - min(x1, u1)) * max(0, max(y2, v2) - min(y1, v1)), eps)
    return both / union, both / union - (around - union) / around


def test_overlaps_are_those_in_double_precision():
    a, b = random_boxes(40), random_boxes(30, 1)
    expected = np.array([[exact_overlaps(x, y) for y in b] for x in a])
    assert (expected[..., 0] > 0).any()
    # float32 areas of up to 3e4 have errors of up to 1e-7 relative, those of differences a few times more
    np.testing.assert_allclose(pairwise_iou(a, b), expected[..., 0], atol=1e-6)
    np.testing.assert_allclose(iou(a[:30], b), expected[np.arange(30), np.arange(30), 0], atol=1e-6)
    np.testing.assert_allclose(giou(a[:30], b), expected[np.arange(30), np.arange(30), 1], atol=1e-6)


def test_pairs_are_computed_for_each_image_of_a_batch():
    a, b = random_boxes(12).reshape(3, 4, 4), random_boxes(15, 1).reshape(3, 5, 4)
    together = pairwise_iou(a, b)
    assert together.shape == (3, 4, 5)
    for index in range(3):
        np.testing.assert_array_equal(together[index], pairwise_iou(a[index], b[index]))


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ((0, 0, 2, 2), (1, 1, 3, 3), (1 / 7, 1 / 7 - 2 / 9)),
        ((0, 0, 2, 2), (0, 0, 2, 2), (1, 1)),
        ((0, 0, 1, 1), (1, 0, 2, 1), (0, 0)),  # they touch
        ((0, 0, 1, 1), (3, 0, 4, 1), (0, -0.5)),
        ((0, 0, 0, 0), (0, 0, 0, 0), (0, 0)),  # both limited to eps
        ((0, 0, 0, 0), (1, 1, 1, 1), (0, 1e-6 - 1)),
    ],
    ids=str,
)
def test_overlaps_of_known_boxes(a, b, expected):
    a, b = jnp.float32(a), jnp.float32(b)
    np.testing.assert_allclose([iou(a, b), giou(a, b)], expected, rtol=1e-6, atol=1e-7)


def test_eps_limits_the_union():
    a, b = jnp.float32([0, 0, 1, 1]), jnp.float32([0, 0, 1, 1])
    assert float(iou(a, b, eps=4.0)) == 0.25
    assert float(pairwise_iou(a[None], b[None], eps=4.0)[0, 0]) == 0.25


def test_areas_of_boxes_without_extent_are_0():
    boxes = jnp.float32([[0, 0, 2, 3], [2, 0, 2, 3], [3, 0, 2, 3], [3, 4, 2, 3]])
    assert areas(boxes).tolist() == [6, 0, 0, 0]


@pytest.mark.parametrize("b", [(1, 1, 3, 3), (1, 1, 1, 1), (3, 3, 5, 5), (9, 9, 9, 9), (2, 2, 1, 1)], ids=str)
@pytest.mark.parametrize("a", [(1, 1, 3, 3), (1, 1, 1, 1)], ids=str)
def test_gradients_of_giou_are_finite(a, b):
    gradient = jax.grad(lambda x, y: giou(x, y), argnums=(0, 1))(jnp.float32(a), jnp.float32(b))
    assert np.isfinite(gradient).all()


def test_the_gradient_of_giou_is_that_of_finite_differences():
    a, b = random_boxes(30), random_boxes(30, 1)
    gradient = jax.grad(lambda x: giou(x, b).sum())(a)
    for index in range(30):
        for place in range(4):
            step = np.eye(4)[place] * 1e-6
            above, below = (exact_overlaps(a[index] + sign * step, b[index])[1] for sign in (1, -1))
            # per pixel; float32 rounding as in the values
            np.testing.assert_allclose(gradient[index, place], (above - below) / 2e-6, atol=1e-6)


def exact_decode(anchor, delta, stds):
    x1, y1, x2, y2 = map(float, anchor)
    dx, dy, dw, dh = (float(d) * s for d, s in zip(delta, stds, strict=True))
    limit = np.log(1000 / 16)
    width, height = ((x2 - x1) * np.exp(np.clip(dw, -limit, limit)), (y2 - y1) * np.exp(np.clip(dh, -limit, limit)))
    x, y = (x1 + x2) / 2 + dx * (x2 - x1), (y1 + y2) / 2 + dy * (y2 - y1)
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


STDS = [(1, 1, 1, 1), (0.1, 0.1, 0.2, 0.2), (0.033, 0.033, 0.067, 0.067)]


@pytest.mark.parametrize("stds", STDS, ids=str)
def test_decoded_deltas_are_those_in_double_precision(stds):
    anchors = random_boxes(50)
    deltas = np.random.default_rng(2).normal(0, 3, (50, 4)).astype(np.float32)
    expected = [exact_decode(*each, stds) for each in zip(anchors, deltas, strict=True)]
    np.testing.assert_allclose(decode(anchors, deltas, stds), expected, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("stds", STDS, ids=str)
def test_encoding_inverts_decoding(stds):
    anchors, boxes = random_boxes(50), random_boxes(50, 1)
    np.testing.assert_allclose(decode(anchors, encode(anchors, boxes, stds), stds), boxes, rtol=1e-5, atol=1e-3)


def test_encoding_a_known_box():
    found = encode(jnp.float32([0, 0, 10, 20]), jnp.float32([5, 0, 25, 10]), (0.1, 0.1, 0.2, 0.2))
    np.testing.assert_allclose(found, [10, -2.5, np.log(2) / 0.2, np.log(0.5) / 0.2], rtol=1e-6)


def test_sides_grow_at_most_by_the_ratio():
    found = decode(jnp.float32([0, 0, 16, 16]), jnp.float32([0, 0, 100, -100]), (1, 1, 1, 1))
    np.testing.assert_allclose(found, [8 - 500, 8 - 0.128, 8 + 500, 8 + 0.128], rtol=1e-5)
    found = decode(jnp.float32([0, 0, 16, 16]), jnp.float32([0, 0, 100, -100]), (1, 1, 1, 1), ratio_clip=0.5)
    np.testing.assert_allclose(found, [-8, 4, 24, 12], rtol=1e-6)


def test_decoded_boxes_are_clipped_to_the_size_of_their_image():
    anchors = np.float32([[-5, -7, 300, 200], [10, 10, 20, 20]])
    sizes = np.int32([[50, 80], [150, 12]])  # height, width
    found = decode(anchors, jnp.zeros((2, 2, 4)), (1, 1, 1, 1), size=sizes[:, None])
    assert found.tolist() == [[[0, 0, 80, 50], [10, 10, 20, 20]], [[0, 0, 12, 150], [10, 10, 12, 20]]]


def test_anchors_are_centred_on_positions_times_the_stride_row_by_row():
    sides = anchor_sides(4, [8], [0.5, 1, 2])
    np.testing.assert_allclose(sides, [[32 * 2**0.5, 32 / 2**0.5], [32, 32], [32 / 2**0.5, 32 * 2**0.5]], rtol=1e-6)
    found = grid_anchors((2, 3), 4, sides)
    assert found.shape == (18, 4)
    assert found.dtype == np.float32
    assert found[1].tolist() == [-16, -16, 16, 16]  # row 0, column 0, ratio 1
    assert found[3 * 2 + 1].tolist() == [8 - 16, -16, 8 + 16, 16]  # column 2
    assert found[3 * 3 + 1].tolist() == [-16, 4 - 16, 16, 4 + 16]  # row 1
    np.testing.assert_allclose(found[17], np.array([8, 4, 8, 4]) + 16 * np.array([-1, -2, 1, 2]) / 2**0.5, rtol=1e-6)


def test_scales_of_one_ratio_follow_each_other():
    assert anchor_sides(2, [1, 3], [1, 4]).tolist() == [[2, 2], [6, 6], [1, 4], [3, 12]]


def test_a_levels_count_of_anchors_is_that_of_mask_rcnn_at_800_by_1344():
    levels = [
        grid_anchors((-(-800 // s), -(-1344 // s)), s, anchor_sides(s, [8], [0.5, 1, 2])) for s in (4, 8, 16, 32, 64)
    ]
    assert sum(map(len, levels)) == 268569


@pytest.mark.parametrize(
    ("size", "rows", "columns"), [((32, 64), 4, 8), ((33, 57), 5, 8), ((1, 8), 1, 1), ((80, 80), 5, 9)]
)
def test_positions_that_begin_in_the_padded_image_are_inside(size, rows, columns):
    found = jax.jit(lambda padded: inside_padded((5, 9), 8, padded))(jnp.int32(size)).reshape(5, 9)
    assert found[:rows, :columns].all()
    assert found.sum() == rows * columns
