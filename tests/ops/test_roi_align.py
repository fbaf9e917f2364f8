"""RoIAlign follows torchvision's definition in both implementations, with values and gradients."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from focalnet_jax.ops.roi_align import IMPLEMENTATIONS, assign_levels, axis_weights, choose_roi_align, roi_align

STRIDES = (4, 8)
# float32 positions of samples have errors of 4e-6 at 40 cells, which differences of neighbours of about 5 multiply.
TOLERANCE = dict(rtol=1e-5, atol=3e-5)


def interpolate(x, row, column):
    """Returns the value of a map `[h, w, C]` at a position."""
    height, width = x.shape[:2]
    if not (-1 <= row <= height and -1 <= column <= width):
        return 0
    row, column = min(max(row, 0), height - 1), min(max(column, 0), width - 1)
    top, left = int(row), int(column)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    v, u = row - top, column - left
    upper, lower = ((1 - u) * x[each, left] + u * x[each, right] for each in (top, bottom))
    return (1 - v) * upper + v * lower


def reference(x, box, stride, size, samples):
    """Returns the averages `[size, size, C]` of one box of a map `[h, w, C]`, in double precision."""
    x1, y1, x2, y2 = np.float64(box) / stride - 0.5
    height, width = (y2 - y1) / size, (x2 - x1) / size
    rows, columns = (samples, samples) if samples else (int(np.ceil(height)), int(np.ceil(width)))
    out = np.zeros((size, size, x.shape[-1]))
    for p in range(size):
        for q in range(size):
            total = sum(
                interpolate(x, y1 + (p + (i + 0.5) / rows) * height, x1 + (q + (j + 0.5) / columns) * width)
                for i in range(rows)
                for j in range(columns)
            )
            out[p, q] = total / max(rows * columns, 1)
    return out


def example(seed=0):
    """Returns maps of two images of 95 x 150 pixels, and boxes of both levels, some without area or outside."""
    rng = np.random.default_rng(seed)
    maps = [rng.normal(3, 1, (2, -(-95 // s), -(-150 // s), 5)).astype(np.float32) for s in STRIDES]
    corners = rng.uniform(-5, 90, (2, 14, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(0, 60, (2, 14, 2))], axis=2).astype(np.float32)
    special = [
        [0, 0, 150, 95],
        [0, 3, 150, 6],
        [20, 0, 20, 30],
        [-400, 0, -300, 50],
        [0, 0, 4, 4],
        [60, 0, 149.5, 94.5],
    ]
    return maps, np.concatenate([boxes, np.float32([special] * 2)], axis=1)


def expected(maps, boxes, size, samples):
    levels = np.asarray(assign_levels(boxes, len(maps)))
    assert {0, 1} == set(levels.ravel())
    return np.array(
        [
            [
                reference(np.float64(maps[level][image]), box, STRIDES[level], size, samples)
                for box, level in zip(boxes[image], levels[image], strict=True)
            ]
            for image in range(len(boxes))
        ]
    )


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("samples", [0, 2])
@pytest.mark.parametrize("size", [7, 3])
def test_averages_are_those_of_the_definition(implementation, samples, size):
    maps, boxes = example()
    found = jax.jit(partial(roi_align, strides=STRIDES, size=size, samples=samples, implementation=implementation))
    np.testing.assert_allclose(found(maps, boxes), expected(maps, boxes, size, samples), **TOLERANCE)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("samples", [0, 2])
def test_gradients_are_the_transposed_weights(implementation, samples):
    """The function is linear in the maps, so its values give the gradient's inner products with any maps."""
    maps, boxes = example()
    directions = example(1)[0]
    cotangent = np.random.default_rng(2).normal(0, 1, (*boxes.shape[:2], 7, 7, 5)).astype(np.float32)
    compute = partial(roi_align, boxes=boxes, strides=STRIDES, size=7, samples=samples, implementation=implementation)
    gradients = jax.jit(lambda maps: jax.vjp(compute, maps)[1](cotangent)[0])(maps)
    for level in range(len(maps)):
        moved = [np.float64(d) * (i == level) for i, d in enumerate(directions)]
        product = (np.float64(cotangent) * expected(moved, boxes, 7, samples)).sum()
        assert abs(product) > 1
        np.testing.assert_allclose((np.float64(gradients[level]) * directions[level]).sum(), product, rtol=1e-4)


def test_implementations_have_equal_gradients_and_none_of_boxes():
    maps, boxes = example()
    weights = np.random.default_rng(2).normal(0, 1, (*boxes.shape[:2], 7, 7, 5)).astype(np.float32)
    found = []
    for implementation in IMPLEMENTATIONS:
        compute = partial(roi_align, strides=STRIDES, size=7, implementation=implementation)
        loss = lambda maps, boxes, compute=compute: (compute(maps, boxes) * weights).sum()  # noqa: E731
        of_maps, of_boxes = jax.jit(jax.grad(loss, argnums=(0, 1)))(maps, boxes)
        assert not of_boxes.any()
        found.append(of_maps)
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_reversed_nan_and_infinite_boxes_neither_hang_nor_change_others(implementation):
    maps, boxes = example()
    compute = jax.jit(partial(roi_align, strides=STRIDES, size=7, implementation=implementation))
    usual = compute(maps, boxes)
    bad = np.array(
        [[30, 40, 10, 20], [np.nan, 0, 9, 9], [0, 0, np.inf, np.inf], [-np.inf, 0, 9, 9], [0, 0, 1e30, 1e30]]
    )
    found = compute(maps, np.concatenate([boxes[:, :15], np.float32([bad] * 2)], axis=1))
    np.testing.assert_array_equal(found[:, :15], usual[:, :15])


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_bfloat16_maps_have_bfloat16_averages(implementation):
    maps, boxes = example()
    half = [jnp.bfloat16(x) for x in maps]
    found = roi_align(half, boxes, STRIDES, 7, implementation=implementation)
    assert found.dtype == jnp.bfloat16
    exact = roi_align(maps, boxes, STRIDES, 7, implementation=implementation)
    # maps, weights, products and results are rounded to 8 bits
    np.testing.assert_allclose(found.astype(jnp.float32), exact, rtol=2**-6, atol=2**-6)


def test_more_boxes_than_a_chunk_and_none():
    maps, boxes = example()
    many = np.tile(boxes, (1, 4, 1))
    few = roi_align(maps, boxes, STRIDES, 7, implementation="matrix")
    found = roi_align(maps, many, STRIDES, 7, implementation="matrix")
    np.testing.assert_allclose(found, np.tile(few, (1, 4, 1, 1, 1)), rtol=1e-6, atol=1e-6)
    for implementation in IMPLEMENTATIONS:
        none = roi_align(maps, boxes[:, :0], STRIDES, 7, implementation=implementation)
        assert none.shape == (2, 0, 7, 7, 5)


def test_weights_of_a_window_are_a_part_of_all_weights():
    start, stop = jnp.float32([-0.5, 3.2, 18.0]), jnp.float32([21.5, 9.9, 40.0])
    everything = axis_weights(start, stop, 7, 22, 0, 0, 22)
    part = axis_weights(start, stop, 7, 22, 0, jnp.int32([3, 5, 12]), 9)
    for index, first in enumerate((3, 5, 12)):
        np.testing.assert_array_equal(part[index], everything[index, :, first : first + 9])
    np.testing.assert_allclose(everything[:2].sum(-1), 1, rtol=1e-6)  # regions inside the map


@pytest.mark.parametrize(
    ("side", "level"), [(1, 0), (56, 0), (111.9, 0), (112, 1), (223.9, 1), (224, 2), (448, 3), (5000, 3), (0, 0)]
)
def test_levels_change_where_the_side_doubles(side, level):
    assert int(assign_levels(jnp.float32([3, 5, 3 + side, 5 + side]), 4)) == level


def test_every_platform_has_an_implementation():
    assert {choose_roi_align(platform) for platform in ("cpu", "gpu", "tpu")} == set(IMPLEMENTATIONS)
