"""Composites of digits are deterministic, and their boxes and masks show where the digits are."""

import numpy as np
import pytest

from focalnet_jax.data.segments import bitmap
from focalnet_jax.errors import UserError
from focalnet_jax.tasks.detection.composites import DigitComposites


def test_an_example_depends_on_split_and_index_only():
    first, second = DigitComposites("train"), DigitComposites("train")
    assert (len(first), len(DigitComposites("val"))) == (512, 32)
    second[7]
    for index in (0, 3, 511):
        (image, found), (again, same) = first[index], second[index]
        np.testing.assert_array_equal(image, again)
        for name in ("boxes", "labels", "areas", "crowd", "ids"):
            np.testing.assert_array_equal(getattr(found, name), getattr(same, name))
        assert found.segments == same.segments
        assert found.index == index
    assert not np.array_equal(first[0][0], DigitComposites("val")[0][0])
    assert first.fingerprint == second.fingerprint != DigitComposites("val").fingerprint


def test_boxes_are_those_of_the_visible_pixels_which_are_ink_and_do_not_overlap():
    source = DigitComposites("train")
    counts, shapes = np.zeros(10, int), set()
    for index in range(64):
        image, found = source[index]
        height, width = source.sizes[index]
        shapes.add((height, width))
        assert (image.shape, image.dtype) == ((height, width, 3), np.uint8)
        assert 1 <= len(found) <= 6
        assert not found.crowd.any()
        covered = np.zeros((height, width), int)
        for box, area, segment in zip(found.boxes, found.areas, found.segments, strict=True):
            pixels = bitmap(segment, (height, width))
            rows, columns = np.nonzero(pixels)
            assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert pixels.sum() == area > 20
            assert (image[pixels > 0] >= 96).all()
            covered += pixels
        assert covered.max() == 1
        assert (image[covered == 0] <= 80).all()
        counts += np.bincount(found.labels, minlength=10)
    assert (counts > 0).all()
    assert shapes == {(96, 128), (128, 96), (128, 128)}


def test_the_ground_truth_has_all_objects_with_unique_ids():
    source = DigitComposites("val")
    truth = source.ground_truth()
    assert [entry["id"] for entry in truth["images"]] == source.image_ids.tolist()
    assert [(entry["id"], entry["name"]) for entry in truth["categories"]] == [(n + 1, str(n)) for n in range(10)]
    ids = [entry["id"] for entry in truth["annotations"]]
    assert len(set(ids)) == len(ids) == sum(len(source[index][1]) for index in range(len(source)))
    assert min(ids) > 0
    found = source[3][1]
    entries = [entry for entry in truth["annotations"] if entry["image_id"] == source.image_ids[3]]
    for row, entry in enumerate(entries):
        x, y, w, h = entry["bbox"]
        assert [x, y, x + w, y + h] == found.boxes[row].tolist()
        assert source.category_ids[found.labels[row]] == entry["category_id"]
        assert entry["segmentation"] == found.segments[row]


def test_an_unknown_split_is_one_line():
    with pytest.raises(UserError, match=r"has no split 'test'; expected train or val"):
        DigitComposites("test")
