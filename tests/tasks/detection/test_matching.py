"""Matches of boxes and objects, samples, proposals and one-to-one matches."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from focalnet_jax.tasks.detection.anchors import Anchors
from focalnet_jax.tasks.detection.matching import BACKGROUND, IGNORED, Thresholds, draw, match
from focalnet_jax.tasks.detection.rpn import RATIOS, RPN, weights_of
from focalnet_jax.tasks.detection.sparse_rcnn import match_one_to_one
from tests.tasks.detection import reference

SLOTS = 7


def slots(boxes, labels=None):
    boxes = np.float32(boxes).reshape(-1, 4)
    filled = np.zeros((SLOTS, 4), np.float32), np.full(SLOTS, -1, np.int32)
    filled[0][: len(boxes)], filled[1][: len(boxes)] = boxes, np.arange(len(boxes)) if labels is None else labels
    return filled


def matches(places, used, boxes, thresholds):
    """Returns the match of each box, computed as mmdetection's MaxIoUAssigner does."""
    overlaps = np.array([[reference.overlap(place, box) for box in boxes] for place in places])
    overlaps = overlaps.reshape(len(places), len(boxes))
    found = np.full(len(places), IGNORED)
    for place in np.flatnonzero(used):
        best = overlaps[place].max(initial=0)
        found[place] = BACKGROUND if best < thresholds.negative else IGNORED
        if len(boxes) and best >= thresholds.positive:
            found[place] = overlaps[place].argmax()
    if thresholds.best is not None:
        for box in range(len(boxes)):
            best = overlaps[used, box].max(initial=0)
            if best >= thresholds.best:
                found[used & (overlaps[:, box] == best)] = box
    return found


@pytest.mark.parametrize(
    "thresholds", [Thresholds(0.7, 0.3, 0.3), Thresholds(0.5, 0.5, 0.5), Thresholds(0.6, 0.6, None)]
)
def test_matches_are_those_of_the_reference(thresholds):
    rng, run = np.random.default_rng(0), jax.jit(lambda *given: match(*given, thresholds))
    kinds = set()
    for _ in range(60):
        # Coordinates are multiples of 8, so that many overlaps are exactly equal.
        corners = 8 * rng.integers(0, 8, (40, 2))
        places = np.float32(np.concatenate([corners, corners + 8 * rng.integers(1, 5, (40, 2))], axis=1))
        boxes, used = places[rng.integers(0, 40, rng.integers(0, SLOTS))] + rng.choice([0, 4]), rng.random(40) < 0.8
        expected = matches(places, used, boxes, thresholds)
        np.testing.assert_array_equal(run(places, used, *slots(boxes)), expected)
        kinds |= {min(each, 0) for each in expected.tolist()}
    assert kinds == {BACKGROUND, IGNORED, 0}


def test_an_object_without_area_is_matched_to_nothing():
    places = np.float32([[0, 0, 10, 10], [5, 5, 5, 9]])
    found = match(places, np.ones(2, bool), *slots([[5, 5, 5, 9]]), Thresholds(0.5, 0.5, 0.5))
    assert found.tolist() == [BACKGROUND, BACKGROUND]


@pytest.mark.parametrize(("objects", "background"), [(5, 100), (40, 100), (0, 100), (3, 4), (40, 2), (0, 0)])
def test_samples_are_distinct_and_fill_up_with_background(objects, background):
    matched = np.array([*range(objects), *[BACKGROUND] * background, IGNORED, IGNORED], np.int32)
    matched = np.random.default_rng(0).permutation(matched)
    found = draw(jnp.asarray(matched), jax.random.key(0), 24, 8)
    number = int(found.used.sum())
    positives = min(objects, 8)
    assert int(found.positive.sum()) == positives
    assert number == positives + min(background, 24 - positives)
    assert found.used.tolist() == [True] * number + [False] * (24 - number)  # the existing ones first
    assert found.positive.tolist() == [True] * positives + [False] * (24 - positives)
    kept = np.asarray(found.boxes)[:number]
    assert len(set(kept.tolist())) == number
    np.testing.assert_array_equal(np.asarray(found.objects)[:number], matched[kept])
    assert IGNORED not in matched[kept]


def test_each_box_is_sampled_equally_often():
    matched = jnp.asarray([0] * 10 + [BACKGROUND] * 30, jnp.int32)
    keys = jax.random.split(jax.random.key(0), 4000)
    found = jax.vmap(lambda key: draw(matched, key, 12, 4))(keys)
    counts = np.bincount(np.asarray(found.boxes).ravel(), minlength=40) / len(keys)
    # Binomial, five standard deviations.
    np.testing.assert_allclose(counts[:10], 4 / 10, atol=5 * np.sqrt(0.4 * 0.6 / 4000))
    np.testing.assert_allclose(counts[10:], 8 / 30, atol=5 * np.sqrt(8 / 30 * 22 / 30 / 4000))


def test_weights_divide_by_the_samples_of_the_batch_and_an_empty_kind_counts_as_one():
    some = draw(jnp.asarray([0] * 3 + [BACKGROUND] * 9, jnp.int32), jax.random.key(0), 12, 6)
    none = draw(jnp.asarray([BACKGROUND] * 12, jnp.int32), jax.random.key(0), 12, 6)
    both = jax.tree.map(lambda *each: jnp.stack(each), some, none)
    np.testing.assert_allclose(weights_of(both), 2 / (12 + 12 + 1))


def test_proposals_are_the_best_boxes_of_greedy_suppression_within_levels():
    anchors, size = Anchors((64, 96), 5, 4, RATIOS), np.array([60, 90])
    rng = np.random.default_rng(0)
    shapes = [(height, width, len(RATIOS)) for height, width in anchors.sizes]
    logits = [rng.normal(size=(1, *shape)).astype(np.float32) for shape in shapes]
    deltas = [rng.normal(0, 0.2, (1, *shape, 4)).astype(np.float32) for shape in shapes]
    found = jax.jit(lambda *given: RPN().proposals(*given, anchors, 50, 40))(logits, deltas, size[None])
    kept, first, inside = [], 0, np.asarray(anchors.inside(jnp.asarray(size)))
    for count, scores, change in zip(anchors.counts, logits, deltas, strict=True):
        place = anchors.boxes[first : first + count].astype(np.float64)
        sides, change = place[:, 2:] - place[:, :2], change.reshape(-1, 4).astype(np.float64)
        centres = (place[:, :2] + place[:, 2:]) / 2 + change[:, :2] * sides
        half = sides * np.exp(change[:, 2:]) / 2
        boxes = np.clip(np.concatenate([centres - half, centres + half], axis=1), 0, [90, 60, 90, 60])
        scores = np.where(inside[first : first + count], 1 / (1 + np.exp(-scores.ravel().astype(np.float64))), -1)
        chosen = []
        for each in np.argsort(-scores, kind="stable")[:50]:
            if scores[each] >= 0 and all(reference.overlap(boxes[each], boxes[other]) <= 0.7 for other in chosen):
                chosen.append(each)
        kept += [(scores[each], *boxes[each]) for each in chosen]
        first += count
    expected = np.array(sorted(kept, reverse=True)[:40])
    assert found.used.all()
    np.testing.assert_allclose(found.scores[0], expected[:, 0], rtol=1e-5)
    np.testing.assert_allclose(found.boxes[0], expected[:, 1:], rtol=1e-4, atol=1e-3)


def test_one_to_one_matches_have_the_smallest_sum_of_costs_and_each_object_has_one():
    rng, size = np.random.default_rng(0), np.array([64, 96])
    run = jax.jit(match_one_to_one)
    for _ in range(10):
        corners = rng.uniform(0, 1, (5, 2, 2)) * (96, 64)
        boxes = np.float32(np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1))
        corners = rng.uniform(0, 1, (3, 2, 2)) * (96, 64)
        objects = np.float32(np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1))
        logits = rng.normal(0, 2, (5, 4)).astype(np.float32)
        labels = rng.integers(0, 4, 3)
        found = np.asarray(run(logits, boxes, *slots(objects, labels), size))
        assert sorted(found[found >= 0]) == [0, 1, 2]
        probability = 1 / (1 + np.exp(-logits.astype(np.float64)))[:, labels]
        focal = -np.log(probability) * 0.25 * (1 - probability) ** 2 + np.log(1 - probability) * 0.75 * probability**2
        distance = np.abs((boxes[:, None] - objects[None]) / (96, 64, 96, 64)).sum(axis=-1)
        enclosing = np.maximum(boxes[:, None, 2:], objects[None, :, 2:]) - np.minimum(
            boxes[:, None, :2], objects[None, :, :2]
        )
        overlap = np.array([[reference.overlap(a, b) for b in objects] for a in boxes])
        areas = [((each[:, 2:] - each[:, :2]).prod(axis=1)) for each in (boxes, objects)]
        union = (areas[0][:, None] + areas[1]) / (1 + overlap)
        giou = overlap - 1 + union / enclosing.prod(axis=-1)
        costs = 2 * focal + 5 * distance - 2 * giou
        best = min(
            itertools.permutations(range(5), 3), key=lambda rows: sum(costs[row, at] for at, row in enumerate(rows))
        )
        assert [int(found[row]) for row in best] == [0, 1, 2]


def test_costs_that_are_nan_leave_the_other_matches():
    logits, boxes = np.zeros((4, 3), np.float32), np.float32([[0, 0, 8, 8], [8, 8, 30, 30], [np.nan] * 4, [1, 1, 9, 9]])
    found = match_one_to_one(logits, boxes, *slots([[8, 8, 30, 30], [0, 0, 8, 8]]), np.array([64, 64]))
    assert found.tolist() == [1, 0, BACKGROUND, BACKGROUND]
