"""Augmentation of images and boxes: boxes stay on their objects, and images on their canvas."""

import numpy as np
import pytest

from focalnet_jax.data.instances import Instances
from focalnet_jax.tasks.detection.augment import Augmentation, Crop, Draws
from focalnet_jax.tasks.detection.canvases import Canvases
from focalnet_jax.tasks.detection.host import resized_image
from focalnet_jax.tasks.detection.options import Options

AUGMENTATION = Augmentation(
    Canvases(96, 160), short_sides=(48, 64, 96), long_side=160, crop_short_sides=(60, 80), crop_range=(40, 64), slots=4
)


def instances(boxes, crowd=()):
    count = len(boxes)
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    flags = np.array([index in crowd for index in range(count)], bool)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return Instances(0, boxes, np.arange(count, dtype=np.int32), flags, areas, np.arange(count) + 1)


def white_box(size, box):
    image = np.zeros((*size, 3), np.uint8)
    image[box[1] : box[3], box[0] : box[2]] = 255
    return image


@pytest.mark.parametrize("size", [(120, 160), (160, 120), (100, 100)])
@pytest.mark.parametrize("seed", range(20))
def test_boxes_stay_on_their_objects(size, seed):
    rng = np.random.default_rng(seed)
    x, y = rng.integers(0, 60, 2)
    box = (x, y, x + rng.integers(20, 40), y + rng.integers(20, 40))
    made = AUGMENTATION(white_box(size, box), instances([box]), rng)
    height, width = made["size"]
    assert made["image"].shape[:2] == AUGMENTATION.canvases.of(*size)
    assert not made["image"][height:].any()
    assert not made["image"][:, width:].any()
    bright = made["image"][..., 0] > 127
    if made["labels"][0] < 0:
        assert bright.mean() < 0.01  # cropped away
        return
    rows, columns = (np.flatnonzero(bright.any(axis=axis)) for axis in (1, 0))
    found = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    np.testing.assert_allclose(made["boxes"][0], found, atol=1.5)  # the edge of a resized box is grey


def test_a_mirrored_crop_has_mirrored_boxes():
    draws = Draws(mirrored=True, crop=Crop((100, 200), 10, 20, (50, 60)), size=(80, 96))
    made = AUGMENTATION.apply(np.zeros((50, 100, 3), np.uint8), instances([(60, 10, 90, 30)]), draws)
    # Mirrored: 10 to 40; twice as large: 20 to 80; in the crop: 0 to 60; 1.6 times as large: 0 to 96.
    np.testing.assert_allclose(made["boxes"][0], (0, 16, 96, 80))


def test_crowds_are_no_targets_and_the_largest_boxes_are_kept():
    boxes = [(0, 0, 10 + n, 10) for n in range(7)]
    made = AUGMENTATION.apply(np.zeros((96, 160, 3), np.uint8), instances(boxes, {6}), Draws(False, None, (96, 160)))
    assert made["labels"].tolist() == [2, 3, 4, 5]
    assert made["excess"] == 2


def test_no_objects_fill_no_slots():
    made = AUGMENTATION.apply(np.zeros((96, 160, 3), np.uint8), instances([]), Draws(False, None, (96, 160)))
    assert (made["labels"] == -1).all()
    assert not made["boxes"].any()


def test_a_crop_of_the_other_orientation_fits_into_the_canvas():
    assert Canvases(96, 160).limited((150, 90), 100, 200) == (96, 58)
    assert Canvases(96, 160).limited((96, 160), 100, 200) == (96, 160)
    assert Canvases(96, 160).limited((150, 90), 200, 100) == (150, 90)


@pytest.mark.parametrize(("exact", "expected"), [(True, (96, 128)), (False, (96, 160))])
def test_images_of_evaluations_are_padded_to_multiples_or_to_the_canvas(exact, expected):
    options = Options(box=(160, 96), canvases=Canvases(96, 160), exact=exact)
    arrays = resized_image(np.full((192, 250, 3), 9, np.uint8), options)
    assert arrays["image"].shape == (*expected, 3)
    assert arrays["size"].tolist() == [96, 125]
    np.testing.assert_allclose(arrays["scale"], [0.5] * 4)
    groups = options.groups(np.array([(192, 250), (250, 192), (192, 250)]))
    assert sorted(map(len, groups)) == [1, 2]
