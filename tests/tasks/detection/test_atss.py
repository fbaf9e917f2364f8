"""ATSS: targets, losses and their divisors, detections."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from focalnet_jax.tasks.detection.anchors import Anchors
from focalnet_jax.tasks.detection.atss import detect, image_losses
from focalnet_jax.tasks.detection.atss_targets import Targets, assign, count_targets
from focalnet_jax.tasks.detection.canvases import Canvases
from focalnet_jax.tasks.detection.options import Options
from tests.tasks.detection import reference

CANVAS, LEVELS, CLASSES, SLOTS = (96, 160), 4, 5, 12
ANCHORS = Anchors(CANVAS, LEVELS)
ASSIGN = jax.jit(lambda boxes, labels, size: assign(ANCHORS, boxes, labels, size, CLASSES))


def slots(boxes, labels):
    filled = np.zeros((SLOTS, 4), np.float32), np.full(SLOTS, -1, np.int32)
    filled[0][: len(boxes)], filled[1][: len(labels)] = np.reshape(boxes, (-1, 4)), labels
    return filled


def random_objects(rng, size):
    count = int(rng.integers(0, SLOTS + 1))
    corners = rng.uniform(0, 1, (count, 2, 2)) * (size[1], size[0])
    boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1) + 0.5], axis=1)
    return np.clip(boxes, 0, [size[1], size[0]] * 2).astype(np.float32), rng.integers(0, CLASSES, count)


def owners(boxes, labels, size):
    """Returns the label and the box of each anchor by the reference."""
    owner = reference.assign(CANVAS, LEVELS, size, np.asarray(boxes, np.float64))
    expected = np.where(owner == -2, -1, CLASSES)
    matched = np.zeros((len(owner), 4), np.float32)
    for place in np.flatnonzero(owner >= 0):
        expected[place], matched[place] = labels[owner[place]], boxes[owner[place]]
    return owner, expected, matched


@pytest.mark.parametrize("seed", range(20))
def test_targets_are_those_of_the_reference(seed):
    rng = np.random.default_rng(seed)
    for _ in range(10):
        size = int(rng.integers(20, CANVAS[0] + 1)), int(rng.integers(20, CANVAS[1] + 1))
        boxes, labels = random_objects(rng, size)
        found = ASSIGN(*slots(boxes, labels), np.array(size, np.int32))
        _, expected, matched = owners(boxes, labels, size)
        np.testing.assert_array_equal(found.labels, expected)
        np.testing.assert_array_equal(found.boxes, matched)


ADVERSARIAL = {
    "no objects": [],
    "the same box twice": [(8, 8, 40, 40), (8, 8, 40, 40)],
    "distances that are equal": [(4, 4, 12, 12), (16, 16, 24, 24)],
    "the whole image": [(0, 0, 160, 96)],
    "a box of one pixel": [(33, 17, 34, 18)],
    "a box between all centres": [(1, 1, 7, 7)],
    "a line": [(10, 20, 120, 20.25)],
    "outside of the image": [(150, 90, 160, 96)],
    "more boxes than candidates": [(4 * i, 4 * i, 4 * i + 30, 4 * i + 20) for i in range(SLOTS)],
    "one inside the other": [(0, 0, 96, 96), (32, 32, 64, 64)],
}


@pytest.mark.parametrize("name", ADVERSARIAL)
@pytest.mark.parametrize("size", [(96, 160), (60, 70)])
def test_targets_of_difficult_objects_are_those_of_the_reference(name, size):
    boxes = np.array(ADVERSARIAL[name], np.float32).reshape(-1, 4)
    labels = np.arange(len(boxes)) % CLASSES
    found = ASSIGN(*slots(boxes, labels), np.array(size, np.int32))
    _, expected, matched = owners(boxes, labels, size)
    np.testing.assert_array_equal(found.labels, expected)
    np.testing.assert_array_equal(found.boxes, matched)


def outputs(rng, batch=1):
    count = len(ANCHORS.boxes)
    shapes = (batch, count, CLASSES), (batch, count, 4), (batch, count)
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def test_losses_are_those_of_the_reference_and_are_divided_by_counts_of_the_batch():
    rng, size = np.random.default_rng(3), (90, 150)
    boxes, labels = random_objects(rng, size)
    owner, *_ = owners(boxes, labels, size)
    given = outputs(rng)
    targets = jax.tree.map(lambda x: x[None], ASSIGN(*slots(boxes, labels), np.array(size, np.int32)))
    focal, giou, centre = (float(each[0]) for each in image_losses(*given, targets, ANCHORS))
    arrays = (each[0].astype(np.float64) for each in given)
    expected = reference.losses(*arrays, owner, boxes.astype(np.float64), labels, ANCHORS.boxes)
    np.testing.assert_allclose((focal, giou / 2, centre), expected[:3], rtol=1e-5)  # rounding of float32
    counts = count_targets(targets, CLASSES)
    np.testing.assert_allclose(counts, ((owner >= 0).sum(), expected[3]), rtol=1e-6)


def test_an_image_without_objects_counts_as_one_positive_anchor():
    empty = ASSIGN(*slots([], []), np.array(CANVAS, np.int32))
    both = jax.tree.map(lambda x: jnp.stack([x, x]), empty)
    assert [float(each) for each in count_targets(both, CLASSES)] == [2, 1]


def test_gradients_are_finite_for_boxes_without_area_and_extreme_outputs():
    boxes, labels = np.array([(10, 10, 60, 60), (20, 20, 20, 20)], np.float32), np.array([1, 2])
    targets = jax.tree.map(lambda x: x[None], ASSIGN(*slots(boxes, labels), np.array(CANVAS, np.int32)))
    given = [each * 1e4 for each in outputs(np.random.default_rng(0))]
    gradients = jax.grad(lambda *values: sum(map(jnp.sum, image_losses(*values, targets, ANCHORS))), (0, 1, 2))(*given)
    assert all(np.isfinite(each).all() for each in gradients)


def greedy(boxes, scores, labels, threshold):
    kept = []
    for place in np.argsort(-scores, kind="stable"):
        if all(labels[place] != labels[k] or reference.overlap(boxes[place], boxes[k]) <= threshold for k in kept):
            kept.append(place)
    return kept


def test_detections_are_those_of_the_greedy_algorithm():
    rng, size, stored = np.random.default_rng(5), (80, 144), (160, 360)
    scale = np.array([size[1] / stored[1], size[0] / stored[0]] * 2, np.float32)
    logits, deltas, centerness = (each[0] for each in outputs(rng))
    options = Options(canvases=Canvases(*CANVAS), candidates=40, score=0.5, detections=30)
    levels, first = [[], [], []], 0
    for (height, width), count in zip(ANCHORS.sizes, ANCHORS.counts, strict=True):
        for kept, each in zip(levels, (logits, deltas, centerness), strict=True):
            kept.append(each[first : first + count].reshape(height, width, *each.shape[1:]))
        first += count
    found = detect(*levels, np.array(size, np.int32), scale, ANCHORS, options)

    inside = np.asarray(ANCHORS.inside(jnp.array(size)))
    probabilities, centre = 1 / (1 + np.exp(-logits)), 1 / (1 + np.exp(-centerness))
    ranks = np.where(inside, (probabilities * centre[:, None]).max(axis=1), -1)
    chosen, first = [], 0
    for count in ANCHORS.counts:
        order = first + np.argsort(-ranks[first : first + count], kind="stable")[:40]
        chosen += [place for place in order if inside[place]]
        first += count
    pairs = [(place, each) for place in chosen for each in range(CLASSES) if probabilities[place, each] > 0.5]
    boxes = []
    for place, _ in pairs:
        anchor = ANCHORS.boxes[place]
        sides, (dx, dy, dw, dh) = anchor[2:] - anchor[:2], deltas[place] * (0.1, 0.1, 0.2, 0.2)
        centre_of = (anchor[:2] + anchor[2:]) / 2 + sides * (dx, dy)
        half = sides * np.exp((dw, dh)) / 2
        box = np.clip(np.concatenate([centre_of - half, centre_of + half]), 0, [size[1], size[0]] * 2)
        boxes.append(box / scale)
    scores = np.array([probabilities[place, each] * centre[place] for place, each in pairs])
    kept = greedy(boxes, scores, [each for _, each in pairs], options.iou)[:30]
    assert len(kept) == 30
    np.testing.assert_array_equal(found.labels, [pairs[place][1] for place in kept])
    np.testing.assert_allclose(found.scores, scores[kept], rtol=1e-5)
    np.testing.assert_allclose(found.boxes, np.array(boxes)[kept], rtol=1e-4, atol=1e-3)
    assert int(found.overflow) == 0


def test_targets_are_a_tree_that_jax_maps_over():
    assert isinstance(jax.tree.map(jnp.shape, ASSIGN(*slots([], []), np.array(CANVAS))), Targets)
