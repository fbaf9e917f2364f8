"""Non-maximum suppression with fixed shapes equals the greedy algorithm."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from focalnet_jax.ops.nms import multiclass_nms, nms, sorted_nms


def overlap(a, b):
    """Returns the intersection over union of a box with boxes `[n, 4]`, in single precision as in mmcv."""
    sides = np.maximum(np.minimum(a[2:], b[:, 2:]) - np.maximum(a[:2], b[:, :2]), np.float32(0))
    both = sides[:, 0] * sides[:, 1]
    whole = [(x[..., 2] - x[..., 0]) * (x[..., 3] - x[..., 1]) for x in (a, b)]
    with np.errstate(invalid="ignore"):
        return both / (whole[0] + whole[1] - both)


def greedy(boxes, scores, threshold):
    """Returns the indices of the kept boxes, the highest score first."""
    order, kept = [i for i in np.argsort(-scores, kind="stable") if not np.isnan(scores[i])], []
    while order:
        best, *order = order
        kept.append(best)
        order = [
            i
            for i, ratio in zip(order, overlap(boxes[best], boxes[order]), strict=True)
            if not ratio > np.float32(threshold)
        ]
    return kept


def greedy_multiclass(boxes, scores, factors, score_threshold, iou_threshold):
    """Returns (box, score, class) of all kept pairs, the highest score first."""
    boxes = np.broadcast_to(boxes[:, None] if boxes.ndim == 2 else boxes, (*scores.shape, 4))
    rows, classes = np.nonzero(scores > score_threshold)
    boxes, scores = boxes[rows, classes], (scores * factors[:, None])[rows, classes]
    if not len(boxes):
        return []
    apart = boxes + (np.float32(classes) * (boxes.max() + 1))[:, None]
    return [(boxes[i], scores[i], classes[i]) for i in greedy(apart, scores, iou_threshold)]


def random_boxes(rng, count, size=100, whole=False):
    corners = rng.uniform(0, size, (count, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(0, size / 2, (count, 2))], axis=1).astype(np.float32)
    return np.round(boxes / 5) * 5 if whole else boxes


def adversarial():
    rng = np.random.default_rng(1)
    boxes = random_boxes(rng, 40)
    chain = np.float32([[i, 0, i + 10, 10] for i in range(60)])  # each box suppresses the next, if that one is kept
    yield "tied scores", random_boxes(rng, 60, 30), np.full(60, 0.5)
    yield "few scores and many ties at the threshold", random_boxes(rng, 300, 60, whole=True), rng.integers(0, 4, 300)
    yield "equal boxes", np.repeat(boxes[:5], 8, axis=0), rng.random(40)
    yield "a chain", chain, -np.arange(60.0)
    yield "a chain of ties", chain, np.zeros(60)
    yield "without area", np.concatenate([boxes[:9], boxes[:9, [0, 1, 0, 1]], boxes[:9, [0, 1, 0, 3]]]), rng.random(27)
    yield "NaN scores", boxes, np.where(rng.random(40) < 0.5, np.nan, rng.random(40))
    yield "only NaN scores", boxes, np.full(40, np.nan)
    yield "x2 < x1", boxes[:, [2, 1, 0, 3]], rng.random(40)
    yield "one box", boxes[:1], rng.random(1)
    yield "infinite scores", boxes, np.where(rng.random(40) < 0.5, np.inf, -np.inf)


fast_nms = jax.jit(nms, static_argnums=2)


@pytest.mark.parametrize(("boxes", "scores"), [case[1:] for case in adversarial()], ids=[c[0] for c in adversarial()])
@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.7])
def test_kept_boxes_are_those_of_the_greedy_algorithm(boxes, scores, threshold):
    boxes, scores = np.float32(boxes), np.float32(scores)
    found = np.flatnonzero(fast_nms(boxes, scores, threshold))
    assert found.tolist() == sorted(greedy(boxes, scores, threshold))


@pytest.mark.parametrize("count", [5, 64, 300])
def test_kept_boxes_of_random_boxes_are_those_of_the_greedy_algorithm(count):
    rng = np.random.default_rng(count)
    kept = 0
    for case in range(70):
        boxes = random_boxes(rng, count, rng.uniform(20, 400), whole=case % 3 == 0)
        scores = np.float32(rng.random(count) if case % 2 else rng.integers(0, 9, count) / 10)
        found, expected = np.flatnonzero(fast_nms(boxes, scores, 0.5)), sorted(greedy(boxes, scores, 0.5))
        assert found.tolist() == expected
        kept += len(expected)
    assert 0 < kept < 70 * count


@pytest.mark.parametrize("block", [1, 7, 64, 200, 1000])
def test_blocks_change_nothing(block):
    rng = np.random.default_rng(2)
    boxes, valid = random_boxes(rng, 200), rng.random(200) < 0.9
    expected = greedy(boxes, np.float32(np.where(valid, -np.arange(200), np.nan)), 0.5)
    assert np.flatnonzero(sorted_nms(boxes, 0.5, valid, block)).tolist() == expected


@pytest.mark.parametrize("per_class", [False, True], ids=["boxes of all classes", "boxes per class"])
def test_detections_are_those_of_the_greedy_algorithm_in_each_class(per_class):
    rng = np.random.default_rng(3)
    fast = jax.jit(
        lambda boxes, scores, factors: multiclass_nms(
            boxes, scores, factors=factors, score_threshold=0.6, iou_threshold=0.5, candidates=250, keep=100
        )
    )
    lengths = set()
    for case in range(20):
        boxes = random_boxes(rng, 250).reshape(50, 5, 4) if per_class else random_boxes(rng, 50)
        scores = np.float32(rng.random((50, 5))) * np.float32(case / 19)  # none above the threshold at first
        factors = np.float32(rng.random(50))
        expected = greedy_multiclass(boxes, scores, factors, 0.6, 0.5)[:100]
        found = fast(boxes, scores, factors)
        used = len(expected)
        assert int(found.overflow) == 0
        assert found.labels.tolist() == [label for *_, label in expected] + [-1] * (100 - used)
        np.testing.assert_array_equal(found.boxes[:used], np.reshape([box for box, *_ in expected], (-1, 4)))
        np.testing.assert_array_equal(found.scores[:used], [score for _, score, _ in expected])
        assert not found.boxes[used:].any()
        assert not found.scores[used:].any()
        lengths.add(used)
    assert min(lengths) == 0 < max(lengths)


def test_scores_that_do_not_enter_are_counted_and_the_best_enter():
    boxes = np.float32([[20 * i, 0, 20 * i + 10, 10] for i in range(30)])
    scores = np.float32(np.arange(60) / 60).reshape(30, 2)
    found = multiclass_nms(boxes, scores, score_threshold=0.5, iou_threshold=0.5, candidates=12, keep=20)
    assert int(found.overflow) == (scores > 0.5).sum() - 12
    assert (found.labels >= 0).sum() == 12
    np.testing.assert_array_equal(found.scores[:12], np.sort(scores.ravel())[::-1][:12])


def test_nan_and_infinity_are_never_detected():
    boxes = np.float32([[0, 0, 9, 9], [20, 0, 29, 9], [np.nan, 0, 9, 9], [40, 0, np.inf, 9]])
    scores = np.float32([[0.9, np.nan], [0.8, 0.7], [0.9, 0.9], [0.9, 0.9]])
    factors = np.float32([1, 1, 1, 1])
    options = dict(score_threshold=0.1, iou_threshold=0.5, candidates=8, keep=8)
    found = multiclass_nms(boxes, scores, **options, factors=factors)
    assert [
        (label, round(float(s), 3)) for label, s in zip(found.labels.tolist(), found.scores, strict=True) if label >= 0
    ] == [
        (0, 0.9),
        (0, 0.8),
        (1, 0.7),
    ]
    assert int(found.overflow) == 0
    factors[0] = np.nan
    assert multiclass_nms(boxes, scores, **options, factors=factors).labels.tolist() == [0, 1] + [-1] * 6


def test_a_batch_has_the_results_of_its_images():
    rng = np.random.default_rng(4)
    boxes, scores = random_boxes(rng, 120).reshape(3, 40, 4), np.float32(rng.random((3, 40, 2)))
    options = dict(score_threshold=0.3, iou_threshold=0.4, candidates=50, keep=20)
    together = jax.vmap(lambda *one: multiclass_nms(*one, **options))(boxes, scores)
    for index in range(3):
        alone = multiclass_nms(jnp.asarray(boxes[index]), jnp.asarray(scores[index]), **options)
        for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
            np.testing.assert_array_equal(a[index], b)
