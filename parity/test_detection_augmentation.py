"""Images and boxes of detection are augmented like by mmdetection, given the same random draws."""

from dataclasses import replace

import numpy as np
import pytest

from focalnet_jax.data.instances import Instances
from focalnet_jax.data.normalization import normalize
from focalnet_jax.data.preprocessing import IMAGENET
from focalnet_jax.tasks.detection.augment import Augmentation
from focalnet_jax.tasks.detection.canvases import Canvases, padded_size
from focalnet_jax.tasks.detection.evaluated import padded_with_zeros
from focalnet_jax.tasks.detection.host import resized_image
from focalnet_jax.tasks.detection.options import PAD, Options
from parity.draws import photos
from parity.mmdet_transforms import Recorder, augmented, fitted, normalized

pytestmark = pytest.mark.filterwarnings("ignore")

RECIPE = Augmentation(Canvases(1344, 1344))  # every image fits into this canvas
SMALL = Augmentation(
    Canvases(320, 320), short_sides=(24, 96, 256), long_side=310, crop_short_sides=(60, 180), crop_range=(40, 90)
)
PHOTOS = photos()


def objects_of(seed, size, count):
    """Returns random objects, some of which touch the border of the image; every fourth is a crowd."""
    rng = np.random.default_rng(seed)
    limits = np.array(size[::-1])
    corners = np.sort(rng.uniform(-0.1, 1.1, (count, 2, 2)).clip(0, 1), axis=1) * limits
    boxes = corners.reshape(count, 4).astype(np.float32)
    boxes = boxes[(boxes[:, 2:] > boxes[:, :2]).all(axis=1)]
    numbers = np.arange(len(boxes))
    crowd, areas = numbers % 4 == 3, np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    return Instances(0, boxes, numbers.astype(np.int32), crowd, areas, numbers + 1)


def both(augmentation, photo, seed, count=12):
    """Returns our arrays, mmdetection's results, and the draws, for random objects."""
    objects, recorder = objects_of(seed, photo.shape[:2], count), Recorder(seed)
    draws = augmentation.draw(recorder, *photo.shape[:2])
    ours = augmentation.apply(photo, objects, draws)
    return ours, augmented(augmentation, photo, objects, recorder.draws), draws


def assert_same(ours, theirs):
    height, width = theirs["img"].shape[:2]
    assert ours["size"].tolist() == [height, width]
    np.testing.assert_array_equal(ours["image"][:height, :width], theirs["img"][..., ::-1])
    assert not ours["image"][height:].any()
    assert not ours["image"][:, width:].any()
    targets = ~theirs["gt_ignore_flags"]  # crowds are not trained
    count = targets.sum()
    np.testing.assert_array_equal(ours["labels"][:count], theirs["gt_bboxes_labels"][targets])
    np.testing.assert_array_equal(ours["boxes"][:count], theirs["gt_bboxes"].numpy()[targets])
    assert (ours["labels"][count:] == -1).all()


@pytest.mark.parametrize("number", range(len(PHOTOS)))
def test_the_recipes_pixels_and_boxes_are_mmdetections(number):
    kinds = set()
    for seed in range(25):
        ours, theirs, draws = both(RECIPE, PHOTOS[number], seed)
        assert_same(ours, theirs)
        kinds.add((draws.mirrored, draws.crop is not None))
    assert len(kinds) == 4


def test_small_crops_without_objects_are_mmdetections():
    empty = 0
    for seed in range(60):
        photo = PHOTOS[seed % len(PHOTOS)][seed : 150 + 2 * seed, : 190 - 2 * seed]
        ours, theirs, _ = both(replace(SMALL, crop_range=(8, 20)), photo, seed, count=2)
        assert_same(ours, theirs)
        empty += not len(theirs["gt_bboxes"])
    assert empty > 0


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (2, 3), (700, 9)])
def test_tiny_and_narrow_images_are_mmdetections(shape):
    photo = np.ascontiguousarray(np.resize(PHOTOS[0][100:140, 100:140], (*shape, 3)))
    for seed in range(10):
        assert_same(*both(SMALL, photo, seed)[:2])


def test_canvases_change_only_crops_of_another_shape():
    limited = 0
    for seed in range(60):
        photo = PHOTOS[seed % len(PHOTOS)]
        drawn = RECIPE.draw(np.random.default_rng(seed), *photo.shape[:2])
        usual = replace(RECIPE, canvases=Canvases())
        if usual.draw(np.random.default_rng(seed), *photo.shape[:2]) == drawn:
            assert_same(*both(usual, photo, seed)[:2])
        else:
            assert drawn.crop is not None
            limited += 1
    assert 0 < limited < 30


def test_normalized_batches_are_padded_with_zeros_like_mmdetections():
    pairs = [both(RECIPE, photo, 3)[:2] for photo in PHOTOS]
    expected = normalized([theirs["img"] for _, theirs in pairs], IMAGENET).permute(0, 2, 3, 1).numpy()
    images, sizes = (np.stack([ours[key] for ours, _ in pairs]) for key in ("image", "size"))
    found = np.asarray(padded_with_zeros(normalize(images, IMAGENET), sizes))
    height, width = expected.shape[1:3]
    assert (height, width) == padded_size(tuple(sizes.max(axis=0).tolist()), PAD)
    # Values of at most 2.7 are computed in float32 from different orders of subtraction and division.
    np.testing.assert_allclose(found[:, :height, :width], expected, atol=1e-6, rtol=0)
    assert not found[:, height:].any()
    assert not found[:, :, width:].any()


@pytest.mark.parametrize("box", [(1333, 800), (310, 96)])
def test_evaluations_resize_like_mmdetection(box):
    for photo in PHOTOS:
        theirs = fitted(photo, box)
        ours = resized_image(photo, Options(box=box, exact=True))
        height, width = theirs["img_shape"]
        assert ours["size"].tolist() == [height, width]
        assert ours["image"].shape[:2] == padded_size((height, width), PAD)
        np.testing.assert_array_equal(ours["image"][:height, :width], theirs["img"][..., ::-1])
        np.testing.assert_array_equal(ours["scale"], np.float32(theirs["scale_factor"] * 2))
