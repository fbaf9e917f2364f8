"""Bitmaps of polygons and run-length encodings equal those of pycocotools, whose values are written down here."""

import numpy as np
import pytest

from focalnet_jax.data.segments import (
    UnreadableSegmentError,
    bitmap,
    compressed_counts,
    cropped_segment,
    encode_bitmap,
    mirrored_segment,
    resized_bitmap,
    resized_segment,
)

SQUARE = [10.0, 5.0, 20.0, 5.0, 20.0, 9.0, 10.0, 9.0]


def random_bitmaps(count=40):
    rng = np.random.default_rng(0)
    for number in range(count):
        height, width = rng.integers(1, 60, 2).tolist()
        pixels = (rng.random((height, width)) < rng.random()).astype(np.uint8)
        yield np.full_like(pixels, number % 2) if number % 5 == 0 else pixels


def test_bitmaps_equal_pycocotools():
    mask = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(0)
    for number in range(600):
        height, width = rng.integers(1, 300, 2).tolist()
        polygons = []
        for _ in range(rng.integers(1, 4)):
            points = rng.random((rng.integers(3, 30), 2)) * (width, height)
            if number % 3 == 1:
                points = points * 1.6 - 0.3 * np.array([width, height])  # beyond the image
            polygons.append(points.round((2, 1, 0)[number % 3]).ravel().tolist())
        expected = mask.decode(mask.merge(mask.frPyObjects(polygons, height, width)))
        np.testing.assert_array_equal(bitmap(polygons, (height, width)), expected)
        encoded = mask.encode(np.asfortranarray(expected))
        assert encode_bitmap(expected)["counts"].encode() == encoded["counts"]
        np.testing.assert_array_equal(bitmap(encoded, (height, width)), expected)


def test_a_polygon_contains_the_pixels_whose_centres_are_inside():
    pixels = bitmap([SQUARE], (12, 30))
    expected = np.zeros((12, 30), np.uint8)
    expected[5:9, 10:20] = 1
    np.testing.assert_array_equal(pixels, expected)
    both = bitmap([SQUARE, [12, 0, 14, 0, 14, 12, 12, 12]], (12, 30))
    expected[:, 12:14] = 1
    np.testing.assert_array_equal(both, expected)
    assert not bitmap([], (12, 30)).any()


def test_encodings_give_back_their_bitmap():
    for pixels in random_bitmaps():
        encoded = encode_bitmap(pixels)
        np.testing.assert_array_equal(bitmap(encoded, pixels.shape), pixels)
        runs = compressed_counts(encoded["counts"].encode())
        assert sum(runs) == pixels.size
        np.testing.assert_array_equal(bitmap(encoded | {"counts": runs}, pixels.shape), pixels)


def test_encodings_are_mirrored_cropped_and_resized_like_their_bitmap():
    for pixels in random_bitmaps():
        encoded, (height, width) = encode_bitmap(pixels), pixels.shape
        np.testing.assert_array_equal(
            bitmap(mirrored_segment(encoded, (height, width)), (height, width)), pixels[:, ::-1]
        )
        size = (height - height // 3, width - width // 2)
        cropped = cropped_segment(encoded, (height, width), height // 4, width // 4, size)
        expected = pixels[height // 4 :][: size[0], width // 4 :][:, : size[1]]
        np.testing.assert_array_equal(bitmap(cropped, size), expected)
        new = (2 * height + 1, max(1, width // 2))
        np.testing.assert_array_equal(
            bitmap(resized_segment(encoded, (height, width), new), new), resized_bitmap(pixels, new)
        )
        np.testing.assert_array_equal(resized_bitmap(pixels, (2 * height, 3 * width)), pixels.repeat(2, 0).repeat(3, 1))


def test_polygons_are_mirrored_cropped_and_resized_like_their_points():
    size = (12, 30)
    pixels = bitmap([SQUARE], size)
    np.testing.assert_array_equal(bitmap(mirrored_segment([SQUARE], size), size), pixels[:, ::-1])
    np.testing.assert_array_equal(bitmap(cropped_segment([SQUARE], size, 6, 15, (6, 10)), (6, 10)), pixels[6:12, 15:25])
    larger = bitmap(resized_segment([SQUARE], size, (24, 90)), (24, 90))
    np.testing.assert_array_equal(larger, pixels.repeat(2, 0).repeat(3, 1))


@pytest.mark.parametrize(
    ("segment", "reason"),
    [
        ([[0, 0, 5, 5]], "fewer than 3 points"),
        ([[0, 0, 5, 5, 5, 0, 1]], "odd number"),
        ([[0, 0, 5, float("nan"), 5, 0]], "not finite"),
        ([["a"] * 6], "not a list of numbers"),
        ([[[0, 0], [1, 1], [2, 0]]], "not a list of numbers"),
        ([None], "not a list of numbers"),
        ("abc", "neither"),
        ({"size": [4, 4], "counts": [17]}, "another size"),
        ({"size": [3, 5], "counts": [14]}, "damaged"),
        ({"size": [3, 5], "counts": [16, -1]}, "damaged"),
        ({"size": [3, 5], "counts": "5"}, "damaged"),
        ({"size": [3, 5], "counts": "!"}, "damaged"),
        ({"size": [3, 5], "counts": "o0" * 40}, "damaged"),
        ({"size": [3, 5]}, "without counts"),
        ({"counts": [15]}, "without counts or size"),
    ],
)
def test_a_damaged_segment_is_named(segment, reason):
    with pytest.raises(UnreadableSegmentError, match=reason):
        bitmap(segment, (3, 5))
