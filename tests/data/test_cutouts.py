"""Cutouts of objects have the pixels and encodings of whole bitmaps."""

import numpy as np
import pytest

from focalnet_jax.data.cutouts import Cutout, cutout_of, cutout_of_crop, encode_cutout
from focalnet_jax.data.mask_crops import packed_crop
from focalnet_jax.data.paste import paste, paste_cutout
from focalnet_jax.data.segments import UnreadableSegmentError, bitmap, encode_bitmap


def random_bitmaps(count=200):
    """Returns bitmaps: empty, full, noise, and noise in a rectangle that may touch the edges of the image."""
    rng = np.random.default_rng(0)
    for number in range(count):
        height, width = rng.integers(1, 60, 2).tolist()
        pixels = (rng.random((height, width)) < rng.random()).astype(np.uint8)
        if number % 5 == 0:
            pixels[:] = number % 2
        elif number % 5 < 4:
            rows, columns = (np.sort(rng.integers(0, side + 1, 2)) for side in (height, width))
            pixels[: rows[0]], pixels[rows[1] :] = 0, 0
            pixels[:, : columns[0]], pixels[:, columns[1] :] = 0, 0
        yield pixels


def test_cutouts_have_the_pixels_of_their_object_in_the_smallest_rectangle():
    for pixels in random_bitmaps():
        found = cutout_of(encode_bitmap(pixels), pixels.shape)
        np.testing.assert_array_equal(found.bitmap(pixels.shape), pixels)
        assert found.pixels.size == 0 or found.pixels.any(axis=0)[[0, -1]].all()
        assert found.pixels.size == 0 or found.pixels.any(axis=1)[[0, -1]].all()


def test_encodings_of_cutouts_are_those_of_bitmaps():
    wrapped = False
    for pixels in random_bitmaps():
        found = cutout_of(encode_bitmap(pixels), pixels.shape)
        assert encode_cutout(found, pixels.shape) == encode_bitmap(pixels)
        wrapped |= bool((pixels[-1, :-1] & pixels[0, 1:]).any())  # runs continue in the next column
        loose = Cutout(0, 0, pixels.astype(bool))  # with empty rows and columns
        assert encode_cutout(loose, pixels.shape) == encode_bitmap(pixels)
    assert wrapped


def test_cutouts_of_polygons_have_the_pixels_of_bitmaps():
    rng = np.random.default_rng(1)
    for number in range(200):
        size = tuple(rng.integers(1, 200, 2).tolist())
        points = [rng.random((rng.integers(3, 12), 2)) * 1.4 * size[::-1] - 0.2 * np.array(size[::-1])] * 2
        polygons = [(each * scale).round(number % 3).ravel() for each, scale in zip(points, (1, 0.3), strict=True)]
        np.testing.assert_array_equal(cutout_of(polygons, size).bitmap(size), bitmap(polygons, size))
    assert not cutout_of([], (5, 6)).bitmap((5, 6)).any()
    with pytest.raises(UnreadableSegmentError, match="another size"):
        cutout_of({"size": [4, 4], "counts": [16]}, (3, 5))


def test_gathered_rows_and_columns_are_those_of_the_bitmap():
    rng = np.random.default_rng(2)
    for pixels in random_bitmaps():
        found = cutout_of(encode_bitmap(pixels), pixels.shape)
        rows, columns = (np.sort(rng.integers(0, side, rng.integers(1, 80))) for side in pixels.shape)
        columns = columns[:: rng.choice([-1, 1])]
        expected = pixels[rows][:, columns]
        np.testing.assert_array_equal(found.gathered(rows, columns).bitmap(expected.shape), expected)


def test_packed_crops_give_back_the_pixels_of_objects_that_fit():
    for pixels in random_bitmaps():
        packed, frame = packed_crop(pixels, 0, 0, 64)
        np.testing.assert_array_equal(cutout_of_crop(packed, frame).bitmap(pixels.shape), pixels)
        assert packed.shape == (64, 8)


def test_a_crop_of_a_larger_object_is_reduced_to_cells_that_are_covered_by_half():
    pixels = np.zeros((64, 200), np.uint8)
    pixels[:, :100] = 1
    pixels[60:, 100:] = 1
    packed, frame = packed_crop(pixels, 30, 7, 16)  # cells of 4 x 12.5 pixels
    assert frame.tolist() == [30, 7, 230, 71]
    cells = np.unpackbits(packed, axis=1)
    expected = np.zeros((16, 16))
    expected[:, :8], expected[15, 8:] = 1, 1
    np.testing.assert_array_equal(cells, expected)
    found = cutout_of_crop(packed, frame)
    assert (found.left, found.top) == (30, 7)
    np.testing.assert_array_equal(found.pixels, pixels)
    pixels[60:62, 100:] = 0  # half of the cells' pixels
    np.testing.assert_array_equal(np.unpackbits(packed_crop(pixels, 0, 0, 16)[0], axis=1), expected)
    pixels[62, 100] = 0  # fewer
    expected[15, 8] = 0
    np.testing.assert_array_equal(np.unpackbits(packed_crop(pixels, 0, 0, 16)[0], axis=1), expected)


def test_pasted_cutouts_are_the_pasted_masks():
    rng = np.random.default_rng(3)
    for _ in range(50):
        corner = rng.uniform(-10, 50, 2)
        box, mask = np.float32([*corner, *(corner + rng.uniform(1, 50, 2))]), rng.random((28, 28)).astype(np.float32)
        expected = paste(mask, box, (40, 50))
        found = paste_cutout(mask, box, (40, 50))
        np.testing.assert_array_equal(found.bitmap((40, 50)), expected)
        assert encode_cutout(found, (40, 50)) == encode_bitmap(expected)


def test_reduced_cells_are_covered_by_at_least_half_of_their_area():
    rng = np.random.default_rng(4)
    for _ in range(100):
        height, width = rng.integers(1, 60, 2).tolist()
        pixels = (rng.random((height, width)) < rng.random()).astype(np.uint8)
        pixels[[0, -1]], pixels[:, [0, -1]] = 1, 1
        cells = min(height, 16), min(width, 16)
        # In units of which a cell has height x width and a pixel has the number of cells along each axis, all areas
        # are whole numbers.
        fine = pixels.repeat(cells[0], axis=0).repeat(cells[1], axis=1)
        areas = fine.reshape(cells[0], height, cells[1], width).sum(axis=(1, 3))
        found = np.unpackbits(packed_crop(pixels, 0, 0, 16)[0], axis=1)
        np.testing.assert_array_equal(found[: cells[0], : cells[1]], 2 * areas >= height * width)
        assert found.sum() == found[: cells[0], : cells[1]].sum()
