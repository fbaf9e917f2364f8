"""Masks of predictions and of the ground truth in figures and in JSON."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from focalnet_jax.config import default_config
from focalnet_jax.data.cutouts import Cutout
from focalnet_jax.data.mask_crops import packed_crop
from focalnet_jax.data.palette import class_colours
from focalnet_jax.data.preprocessing import from_config
from focalnet_jax.data.segments import bitmap
from focalnet_jax.ops.nms import Detections
from focalnet_jax.tasks.detection.canvases import Canvases
from focalnet_jax.tasks.detection.composites import DigitComposites
from focalnet_jax.tasks.detection.evaluated import AveragePrecision
from focalnet_jax.tasks.detection.figures import (
    Drawn,
    comparison_figure,
    draw_boxes,
    draw_masks,
    draw_objects,
    objects_of,
)
from focalnet_jax.tasks.detection.host import DetectionHost
from focalnet_jax.tasks.detection.options import Options
from focalnet_jax.tasks.detection.prediction import DetectionPrediction
from focalnet_jax.tasks.detection.predictor import Detector

GREY = np.full((60, 80, 3), 100, np.uint8)
RED, BLUE = np.uint8([200, 0, 0]), np.uint8([0, 0, 200])


def square(top, left, side):
    return Cutout(top, left, np.ones((side, side), bool))


def test_masks_are_translucent_and_have_an_opaque_outline():
    drawn = draw_masks(GREY, [square(10, 20, 9)], np.stack([RED]))
    np.testing.assert_array_equal(drawn[10, 20:29], [RED] * 9)
    np.testing.assert_array_equal(drawn[14, 28], RED)
    np.testing.assert_array_equal(drawn[14, 24], [140, 60, 60])
    outside = np.ones(GREY.shape[:2], bool)
    outside[10:19, 20:29] = False
    np.testing.assert_array_equal(drawn[outside], GREY[outside])
    assert (GREY == 100).all()  # the image itself is not changed


def test_the_best_mask_is_above_others():
    drawn = draw_masks(GREY, [square(10, 10, 9), square(10, 15, 9)], np.stack([RED, BLUE]))
    np.testing.assert_array_equal(drawn[14, 18], RED)  # the right edge of the first one
    assert drawn[14, 16, 0] > drawn[14, 16, 2] > 60  # both are visible where they overlap
    np.testing.assert_array_equal(drawn[14, 23], BLUE)


@pytest.mark.parametrize("factor", [0.5, 1, 3])
def test_masks_have_the_place_of_their_boxes_in_resized_images(factor):
    image = np.zeros((int(60 * factor), int(80 * factor), 3), np.uint8)
    changed = draw_masks(image, [square(12, 20, 16)], np.stack([RED]), factor=factor).any(axis=-1)
    rows, columns = (np.flatnonzero(changed.any(axis=axis)) for axis in (1, 0))
    assert (rows[0], rows[-1] + 1) == (12 * factor, 28 * factor)
    assert (columns[0], columns[-1] + 1) == (20 * factor, 36 * factor)


def test_masks_at_the_edge_of_the_image_and_empty_ones_are_drawn():
    empty = Cutout(0, 0, np.zeros((0, 0), bool))
    drawn = draw_masks(GREY, [square(51, 71, 9), empty], np.stack([RED, BLUE]))
    np.testing.assert_array_equal(drawn[59, 79], RED)
    assert (drawn != GREY).any(axis=-1).sum() == 81


def test_masks_of_a_batch_are_those_of_its_crops():
    pixels = np.random.default_rng(0).random((30, 40)) < 0.5
    packed, frame = packed_crop(pixels, 5, 7, 48)
    batch = {
        "boxes": np.zeros((1, 2, 4), np.float32),
        "labels": np.int32([[4, -1]]),
        "masks": np.stack([packed, np.zeros_like(packed)])[None],
        "frames": np.stack([frame, np.zeros(4)])[None],
    }
    found = objects_of(batch, 0)
    assert len(found.masks) == len(found.boxes) == 1
    expected = np.zeros((60, 80), bool)
    expected[7:37, 5:45] = pixels
    np.testing.assert_array_equal(found.masks[0].bitmap((60, 80)), expected)
    assert objects_of({key: batch[key] for key in ("boxes", "labels")}, 0).masks is None


def test_a_figure_has_masks_on_both_sides():
    box, label = np.float32([[10, 10, 30, 30]]), np.int32([1])
    both = [Drawn(box, label, scores, [square(10, 10, 20)]) for scores in (np.float32([0.5]), None)]
    figure = comparison_figure(GREY, *both, ("a", "b"), class_colours(2))
    translucent = np.round(0.6 * 100 + 0.4 * class_colours(2)[1])
    inside = np.flatnonzero((figure == translucent).all(axis=-1).any(axis=0))
    assert inside[0] < figure.shape[1] / 2 < inside[-1]


def test_names_of_a_single_class_do_not_hide_objects():
    objects = Drawn(np.float32([[10, 30, 30, 50]]), np.int32([0]))
    for names, changed in ((("nucleus",), False), (("nucleus", "other"), True)):
        drawn = draw_objects(GREY, objects, names, class_colours(len(names)))
        assert (drawn[:30] != GREY[:30]).any() == changed


def test_predictions_have_encodings_of_their_masks_and_draw_them():
    masks = [square(10, 20, 9), square(40, 60, 20)]
    boxes = np.float32([[20, 10, 29, 19], [60, 40, 80, 60]])
    arrays = boxes, np.array([1, 0]), np.float32([0.9, 0.1])
    names = ("cat", "dog"), ("cat", "dog"), class_colours(2)
    with_masks = DetectionPrediction(*arrays, masks, (60, 80), *names, 0.3, 5)
    objects = json.loads(json.dumps(with_masks.json()))["objects"]
    for entry, mask in zip(objects, masks, strict=True):
        np.testing.assert_array_equal(bitmap(entry["segmentation"], (60, 80)), mask.bitmap((60, 80)))
    without = DetectionPrediction(*arrays, None, (60, 80), *names, 0.3, 5)
    assert [set(entry) for entry in without.json()["objects"]] == [{"label", "class", "score", "box"}] * 2
    drawn, boxes_only = with_masks.draw(GREY), without.draw(GREY)
    assert drawn.shape == boxes_only.shape == (240, 320, 3)
    changed = (drawn != boxes_only).any(axis=-1)
    assert changed[40:76, 80:116].any()
    changed[40:76, 80:116] = False
    assert not changed.any()  # scores below 30 % are not drawn


@pytest.mark.parametrize("factor", [1, 2, 5])
def test_predictions_are_drawn_at_their_place_in_a_resized_image(factor):
    boxes, mask = np.float32([[20, 10, 40, 30]]), Cutout(10, 20, np.ones((20, 20), bool))
    arrays = boxes, np.array([0]), np.float32([0.9])
    found = DetectionPrediction(*arrays, [mask], (60, 80), ("cat",), ("cat",), class_colours(1), 0.3, 5)
    image = GREY.repeat(factor, axis=0).repeat(factor, axis=1)
    drawn = found.draw(image)
    below = (drawn != 100).any(axis=-1)[drawn.shape[0] * 20 // 60 :]  # without the text
    rows, columns = (np.flatnonzero(below.any(axis=axis)) for axis in (1, 0))
    shown = drawn.shape[0] / 60
    # the last row and column of a box belong to it
    assert rows[-1] + 1 == pytest.approx(10 * shown, abs=1)
    assert (columns[0], columns[-1] + 1) == pytest.approx((20 * shown, 40 * shown), abs=1)


def test_the_text_of_a_box_is_inside_its_coloured_area():
    drawn = draw_boxes(np.zeros((240, 240, 3), np.uint8), np.float32([[60, 120, 200, 220]]), ["gjpqy"], RED[None])
    above = drawn[:120, 60:200]
    text, area = above[..., 1] > 60, (above == RED).all(axis=-1)  # only the text has green
    rows = np.flatnonzero(area.any(axis=1))
    written = np.flatnonzero(text.any(axis=1))
    assert len(written) > 5
    assert rows[0] <= written[0] <= written[-1] <= rows[-1] == 119


class Fixed:
    """A `Method` that detects two objects, and a place without one."""

    def detect(self, model, batch):
        """Returns boxes in pixels of the stored image."""
        boxes = jnp.array([[20.0, 10, 48, 38], [60, 30, 80, 60], [0, 0, 0, 0]])
        rows = jnp.arange(28)[:, None] < 14
        masks = jnp.stack([jnp.broadcast_to(rows, (28, 28)), jnp.ones((28, 28)), jnp.ones((28, 28))])
        found = boxes, jnp.array([0.9, 0.6, 0]), jnp.array([1, 0, -1]), jnp.int32(0), jnp.array(True), masks
        return Detections(*(jnp.asarray(each)[None] for each in found))


def test_a_predictor_resamples_masks_to_the_stored_image():
    config = default_config("detection")
    names = "cat", "dog"
    options = Options(box=(160, 120), exact=True)  # the image is enlarged
    predictor = Detector(nnx.Module(), names, from_config(config.data), options, Fixed())
    [found] = predictor.predictions([GREY])
    assert found.size == (60, 80)
    assert len(found.masks) == 2
    expected = np.zeros((60, 80))
    expected[10:24, 20:48] = 1
    np.testing.assert_array_equal(found.masks[0].bitmap((60, 80)), expected)
    first, second = found.json()["objects"]
    np.testing.assert_array_equal(bitmap(first["segmentation"], (60, 80)), expected)
    assert bitmap(second["segmentation"], (60, 80)).sum() == 20 * 30
    assert found.line() == "1 dog, 1 cat"


def test_figures_of_a_run_have_masks_of_detections_and_of_objects():
    source = DigitComposites("val")
    made = DetectionHost(None, Options(box=(128, 128), canvases=Canvases(128, 128)), 8, 112).eval_example(source[2])
    batch = {name: np.stack([each] * 2) for name, each in made.items()}
    without = {name: each for name, each in batch.items() if name not in ("masks", "frames")}

    class Two(Fixed):
        def detect(self, model, batch):
            return jax.tree.map(lambda each: jnp.repeat(each, 2, axis=0), super().detect(model, batch))

    class Boxes(Two):
        def detect(self, model, batch):
            return super().detect(model, batch)._replace(masks=None)

    def figure(method, batch):
        evaluation = AveragePrecision(source, method, Options())
        return evaluation.draw(jax.tree.map(np.asarray, evaluation.predict(None, batch)), 1)

    boxes, masks, both = figure(Boxes(), without), figure(Two(), without), figure(Two(), batch)
    middle = boxes.shape[1] // 2
    assert boxes.shape == masks.shape == both.shape
    assert (boxes != masks)[:, :middle].any()
    assert not (boxes != masks)[:, middle:].any()
    assert not (masks != both)[:, :middle].any()
    assert (masks != both)[:, middle:].any()
