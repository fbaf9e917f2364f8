"""Masks of training and evaluation examples equal whole bitmaps that are flipped, resized and cropped."""

import numpy as np
import pytest

from focalnet_jax.config import default_config, replaced
from focalnet_jax.data.cutouts import cutout_of_crop
from focalnet_jax.data.decode import UnreadableImageError
from focalnet_jax.data.instances import Instances
from focalnet_jax.data.segments import bitmap, encode_bitmap, resized_bitmap
from focalnet_jax.errors import UserError
from focalnet_jax.tasks.detection.augment import Augmentation, Crop, Draws
from focalnet_jax.tasks.detection.canvases import Canvases
from focalnet_jax.tasks.detection.composites import DigitComposites
from focalnet_jax.tasks.detection.host import make_host
from focalnet_jax.tasks.detection.sources import open_detection_source
from tests.specs import open_task

AUGMENTATION = Augmentation(
    Canvases(192, 320),
    short_sides=(24, 64, 190),
    long_side=300,
    crop_short_sides=(60, 180),
    crop_range=(40, 90),
    slots=6,
    mask_side=320,  # so that no mask is reduced
)


def random_polygons(rng, size):
    """Returns random polygons, some of them partly outside of the image."""
    centre, radius = rng.random(2) * size[::-1], rng.random() * max(size) / 2
    points = centre + radius * rng.uniform(-1, 1, (rng.integers(1, 4), rng.integers(3, 9), 2))
    return [part.round(2).ravel().tolist() for part in points]


def random_instances(rng, size, count=8):
    """Returns objects of random polygons, beyond the image too, and of random encodings."""
    segments = []
    for number in range(count):
        polygons = random_polygons(rng, size)
        segments.append(encode_bitmap(bitmap(polygons, size)) if number % 2 else polygons)
    corners = rng.random((count, 2)) * size[::-1]
    boxes = np.concatenate([corners, corners + rng.uniform(1, 80, (count, 2))], axis=1)
    boxes = np.clip(boxes, 0, np.array([*size[::-1]] * 2)).astype(np.float32)
    crowd = rng.random(count) < 0.2
    ids = np.arange(count, dtype=np.int64)
    return Instances(0, boxes, ids.astype(np.int32), crowd, ids.astype(np.float32), ids + 1, segments)


def whole(segment, size, draws):
    """Returns the bitmap of an object after the draws, computed from the bitmap of the image."""
    pixels = bitmap(segment, size)
    pixels = pixels[:, ::-1] if draws.mirrored else pixels
    if (crop := draws.crop) is not None:
        pixels = resized_bitmap(pixels, crop.full)
        pixels = pixels[crop.top : crop.top + crop.size[0], crop.left : crop.left + crop.size[1]]
    return resized_bitmap(pixels, draws.size)


def test_augmented_masks_are_those_of_whole_bitmaps():
    seen = {name: 0 for name in ("mirrored", "cropped", "empty", "excess", "larger", "smaller")}
    for seed in range(200):
        rng = np.random.default_rng(seed)
        size = tuple(rng.integers(20, 200, 2).tolist())
        instances = random_instances(rng, size)
        draws = AUGMENTATION.draw(rng, *size)
        made = AUGMENTATION.apply(np.zeros((*size, 3), np.uint8), instances, draws)
        assert made["masks"].shape == (6, 320, 40)
        for slot, label in enumerate(made["labels"]):  # an object's label is its number
            found = cutout_of_crop(made["masks"][slot], made["frames"][slot])
            if label < 0:
                assert not found.pixels.size
                continue
            assert not instances.crowd[label]
            expected = whole(instances.segments[label], size, draws)
            np.testing.assert_array_equal(found.bitmap(draws.size), expected)
            seen["empty"] += not expected.any()
        seen["mirrored"] += draws.mirrored
        seen["cropped"] += draws.crop is not None
        seen["excess"] += made["excess"] > 0
        seen["larger"] += draws.size[0] > size[0]
        seen["smaller"] += draws.size[0] < size[0]
    assert min(seen.values()) > 5, seen


def test_an_object_without_pixels_in_the_crop_keeps_its_box():
    triangle = [0, 0, 40, 0, 0, 40]  # its box reaches into the crop, its pixels do not
    box = np.float32([[0, 0, 40, 40]])
    one = np.ones(1, np.int64)
    instances = Instances(0, box, np.int32([3]), np.zeros(1, bool), np.float32([800]), one, [[triangle]])
    draws = Draws(False, Crop((60, 80), 30, 30, (30, 50)), (60, 100))
    made = AUGMENTATION.apply(np.zeros((60, 80, 3), np.uint8), instances, draws)
    assert made["labels"][0] == 3
    assert made["boxes"][0].tolist() == [0, 0, 20, 20]
    assert not made["masks"].any()
    assert not made["frames"].any()


def config_of(head, **keys):
    config = default_config("detection")
    given = {
        "head.name": head,
        "data.source": "digits",
        "data.image_size": (96, 128),
        "data.max_boxes": 8,
        "inference.box": (128, 96),
        "model.num_classes": 10,
    }
    return replaced(config, given | keys)


def test_masks_of_evaluations_are_resized_bitmaps():
    host, source = make_host(config_of("mask_rcnn")), DigitComposites("val")
    for index in range(12):
        picture, instances = source[index]
        made = host.eval_example((picture, instances))
        assert (made["labels"] >= 0).sum() == len(instances)
        for slot, segment in enumerate(instances.segments):
            found = cutout_of_crop(made["masks"][slot], made["frames"][slot])
            expected = resized_bitmap(bitmap(segment, source.sizes[index]), made["size"])
            np.testing.assert_array_equal(found.bitmap(made["size"]), expected)


@pytest.mark.parametrize("head", ["mask_rcnn", "atss"])
def test_batches_have_the_arrays_that_the_task_describes(head):
    task = open_task(config_of(head, **{"model.depths": (1, 1, 1)}))
    example = task.source[0]
    for evaluated, made in (
        (False, task.host.train_example(example, np.random.default_rng(0))),
        (True, task.host.eval_example(example)),
    ):
        spec = task.batch_spec(1, evaluated=evaluated)
        assert set(spec) == set(made)
        assert ("masks" in made) == ("frames" in made) == (head == "mask_rcnn")
        for name in set(made) - {"image"}:  # whose canvas depends on its orientation
            assert (spec[name].shape, spec[name].dtype) == ((1, *made[name].shape), made[name].dtype)


def test_a_damaged_mask_is_an_unreadable_example():
    host, (picture, instances) = make_host(config_of("mask_rcnn")), DigitComposites("val")[0]
    instances.segments[0] = {"size": [1, 1], "counts": [1]}
    with pytest.raises(UnreadableImageError, match=r"the mask of an object is damaged: .* of another size"):
        host.eval_example((picture, instances))


def test_data_without_masks_cannot_train_a_detector_with_masks(monkeypatch):
    monkeypatch.setattr(DigitComposites, "has_masks", False)
    data = config_of("mask_rcnn").data
    with pytest.raises(UserError, match=r"data.source=digits has no masks, which config.head.name needs: give data"):
        open_detection_source(data, "train", training=True, masks=True)
    open_detection_source(data, "val", masks=True)  # boxes can be evaluated
    open_detection_source(data, "train", training=True)
