"""Boxes are matched to objects as mmdetection's assigners match them, index by index."""

import jax
import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData

from focalnet_jax.tasks.detection.anchors import Anchors
from focalnet_jax.tasks.detection.atss_targets import assign as assign_atss
from focalnet_jax.tasks.detection.matching import Thresholds, match
from focalnet_jax.tasks.detection.sparse_rcnn import match_one_to_one
from parity import mmcv_stub

mmcv_stub.install()
from mmdet.models.task_modules.assigners import (  # noqa: E402 - after the stub
    ATSSAssigner,
    HungarianAssigner,
    MaxIoUAssigner,
)

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def scope():
    """Assigners find their parts in mmdetection's registry; other tests of this process make another the default."""
    with DefaultScope.overwrite_default_scope("mmdet"):
        yield


SLOTS, CLASSES, SIZE = 120, 5, (96, 160)
KINDS = {
    "rpn": (Thresholds(0.7, 0.3, 0.3), dict(pos_iou_thr=0.7, neg_iou_thr=0.3, min_pos_iou=0.3)),
    "mask_rcnn": (Thresholds(0.5, 0.5, 0.5), dict(pos_iou_thr=0.5, neg_iou_thr=0.5, min_pos_iou=0.5)),
    "cascade": (
        Thresholds(0.7, 0.7, None),
        dict(pos_iou_thr=0.7, neg_iou_thr=0.7, min_pos_iou=0.7, match_low_quality=False),
    ),
}
MATCH = {name: jax.jit(lambda *given, limits=limits: match(*given, limits)) for name, (limits, _) in KINDS.items()}
ANCHORS = Anchors(SIZE, 4)
RPN_ANCHORS = Anchors(SIZE, 5, 4, (0.5, 1.0, 2.0))
ATSS = jax.jit(lambda boxes, labels: assign_atss(ANCHORS, boxes, labels, np.array(SIZE), CLASSES))
HUNGARIAN = jax.jit(match_one_to_one)


def random_objects(rng):
    count = int(rng.integers(0, 13))
    corners = rng.uniform(0, 1, (count, 2, 2)) * (SIZE[1], SIZE[0])
    boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1) + 0.5], axis=1)
    return np.clip(boxes, 0, [SIZE[1], SIZE[0]] * 2).astype(np.float32)


ADVERSARIAL = [
    [],
    [(8, 8, 40, 40), (8, 8, 40, 40)],
    [(8, 8, 40, 40)] * 5,
    [(0, 0, 160, 96)],
    [(0, 0, 160, 96), (0, 0, 160, 96), (1, 0, 160, 96)],
    [(33, 17, 34, 18)],
    [(1, 1, 7, 7)],
    [(10, 20, 120, 20.25)],
    [(150, 90, 160, 96)],
    [(156, 92, 160, 96), (0, 0, 4, 4)],
    [(-16, -16, 16, 16)],
    [(-30, 10, 20, 60), (140, 80, 190, 130)],
    [(200, 200, 260, 260)],
    [(-100, -100, 300, 300)],
    [(0, 0, 32, 32), (32, 0, 64, 32), (0, 32, 32, 64), (32, 32, 64, 64)],
    [(16, 16, 48, 48), (16, 16, 48, 80), (16, 16, 80, 48)],
    [(4 * i, 4 * i, 4 * i + 30, 4 * i + 20) for i in range(12)],
    # Not at equal distances: torch.topk does not define which of them it takes, nor does SciPy among equal costs.
    [(i + 0.3 + 0.0011 * i * i, 0.2 + 0.13 * i, i + 40 + 0.0007 * i * i, 40 + 0.11 * i) for i in range(110)],
    [((7 * i) % 140, (5 * i) % 80, (7 * i) % 140 + 16 + 0.03 * i, (5 * i) % 80 + 16) for i in range(SLOTS)],
    [(0, 0, 96, 96), (32, 32, 64, 64), (40, 40, 56, 56), (46, 46, 50, 50)],
]


def cases():
    rng = np.random.default_rng(0)
    yield from (random_objects(rng) for _ in range(200))
    yield from (np.array(boxes, np.float32).reshape(-1, 4) for boxes in ADVERSARIAL)


def slots(boxes, labels):
    filled = np.zeros((SLOTS, 4), np.float32), np.full(SLOTS, -1, np.int32)
    filled[0][: len(boxes)], filled[1][: len(labels)] = boxes, labels
    return filled


def instances(boxes, labels):
    return InstanceData(bboxes=torch.from_numpy(boxes), labels=torch.from_numpy(labels))


def boxes_near(rng, objects):
    """Returns the objects themselves, moved objects, and random boxes: many overlap much, and some equally."""
    near = np.concatenate([objects, *(objects + rng.normal(0, spread, objects.shape) for spread in (1, 4, 12))])
    corners = rng.uniform(0, 1, (40, 2, 2)) * (SIZE[1], SIZE[0])
    far = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
    mixed = np.concatenate([near, np.round(near / 8) * 8, far]).astype(np.float32)
    return np.concatenate([np.minimum(mixed[:, :2], mixed[:, 2:]), np.maximum(mixed[:, :2], mixed[:, 2:])], axis=1)


@pytest.mark.parametrize("kind", KINDS)
def test_matches_by_overlap_are_those_of_max_iou_assigner(kind):
    theirs, rng = MaxIoUAssigner(**KINDS[kind][1], ignore_iof_thr=-1), np.random.default_rng(1)
    matched = 0
    for objects in cases():
        labels = rng.integers(0, CLASSES, len(objects))
        places = RPN_ANCHORS.boxes if kind == "rpn" else boxes_near(rng, objects)
        padded = places if kind == "rpn" else np.zeros((SLOTS * 9, 4), np.float32)
        padded = padded.copy()
        padded[: len(places)] = places
        used = np.arange(len(padded)) < len(places)
        expected = theirs.assign(InstanceData(priors=torch.from_numpy(places)), instances(objects, labels)).gt_inds
        found = np.asarray(MATCH[kind](padded, used, *slots(objects, labels)))
        np.testing.assert_array_equal(found[: len(places)], np.where(expected < 0, -2, expected - 1))
        assert (found[len(places) :] == -2).all()
        matched += int((expected > 0).sum())
    assert matched > 200


def test_matches_of_atss_are_those_of_its_assigner():
    theirs, rng = ATSSAssigner(topk=9), np.random.default_rng(2)
    for objects in cases():
        labels = rng.integers(0, CLASSES, len(objects))
        priors = InstanceData(priors=torch.from_numpy(ANCHORS.boxes))
        expected = theirs.assign(priors, list(ANCHORS.counts), instances(objects, labels)).gt_inds.numpy() - 1
        found = ATSS(*slots(objects, labels))
        wanted = np.where(expected >= 0, np.append(labels, 0)[expected], CLASSES)
        np.testing.assert_array_equal(found.labels, wanted)
        boxes = np.concatenate([objects, np.zeros((1, 4), np.float32)])[expected]
        np.testing.assert_array_equal(found.boxes, np.where(expected[:, None] >= 0, boxes, 0))


def test_one_to_one_matches_are_those_of_the_hungarian_assigner():
    costs = [
        dict(type="FocalLossCost", weight=2.0),
        dict(type="BBoxL1Cost", weight=5.0),
        dict(type="IoUCost", iou_mode="giou", weight=2.0),
    ]
    theirs, rng = HungarianAssigner(costs), np.random.default_rng(3)
    for objects in cases():
        labels = rng.integers(0, CLASSES, len(objects))
        corners = rng.uniform(0, 1, (150, 2, 2)) * (SIZE[1], SIZE[0])
        boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1).astype(np.float32)
        logits = rng.normal(0, 2, (150, CLASSES)).astype(np.float32)
        given = InstanceData(bboxes=torch.from_numpy(boxes), scores=torch.from_numpy(logits))
        expected = theirs.assign(given, instances(objects, labels), img_meta=dict(img_shape=SIZE)).gt_inds.numpy() - 1
        found = np.asarray(HUNGARIAN(logits, boxes, *slots(objects, labels), np.array(SIZE)))
        np.testing.assert_array_equal(found, expected, err_msg=str(objects[:3]))
