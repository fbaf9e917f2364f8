"""Operations on boxes equal mmdetection's and torchvision's."""

import jax
import numpy as np
import pytest
import torch
import torchvision.ops

from focalnet_jax.data.paste import paste
from focalnet_jax.ops.boxes import anchor_sides, decode, encode, giou, grid_anchors, inside_padded, pairwise_iou
from focalnet_jax.ops.nms import multiclass_nms, nms
from focalnet_jax.ops.roi_align import IMPLEMENTATIONS, assign_levels, roi_align
from parity import mmcv_stub
from parity.measure import relative

mmcv_stub.install()

pytestmark = pytest.mark.filterwarnings("ignore")

# The same formulae in float32; compilers fuse products and sums differently.
ROUNDING = dict(rtol=2e-6, atol=2e-6)


def random_boxes(count, seed=0, size=300.0):
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, size, (count, 2))
    return np.concatenate([corners, corners + rng.uniform(1, size / 2, (count, 2))], axis=1).astype(np.float32)


def special_boxes():
    """Returns boxes that are equal, touch, contain each other, have no area, or x2 < x1."""
    return np.float32(
        [
            [0, 0, 8, 8],
            [0, 0, 8, 8],
            [8, 0, 16, 8],
            [2, 2, 4, 4],
            [3, 3, 3, 3],
            [3, 3, 3, 9],
            [9, 9, 5, 5],
            [0, 0, 1e-4, 1e-4],
        ]
    )


def test_overlaps_are_mmdetections():
    from mmdet.structures.bbox import bbox_overlaps

    for a, b in ((random_boxes(50), random_boxes(50, 1)), (special_boxes(), special_boxes())):
        expected = bbox_overlaps(torch.from_numpy(a), torch.from_numpy(b))
        np.testing.assert_allclose(pairwise_iou(a, b), expected, **ROUNDING)
        expected = bbox_overlaps(torch.from_numpy(a), torch.from_numpy(b), mode="giou", is_aligned=True)
        np.testing.assert_allclose(giou(a, b), expected, **ROUNDING)


def test_gradients_of_giou_are_mmdetections():
    from mmdet.structures.bbox import bbox_overlaps

    # Not boxes without area: their gradients are divided by eps squared, which multiplies the rounding.
    for a, b in ((random_boxes(50), random_boxes(50, 1)), (special_boxes()[:4], special_boxes()[[1, 2, 3, 0]])):
        given = torch.from_numpy(a).requires_grad_()
        bbox_overlaps(given, torch.from_numpy(b), mode="giou", is_aligned=True).sum().backward()
        np.testing.assert_allclose(jax.grad(lambda x, y: giou(x, y).sum())(a, b), given.grad, **ROUNDING)


@pytest.mark.parametrize("stds", [(1.0, 1.0, 1.0, 1.0), (0.1, 0.1, 0.2, 0.2)], ids=str)
def test_encoding_and_decoding_are_mmdetections(stds):
    from mmdet.models.task_modules.coders import DeltaXYWHBBoxCoder

    coder = DeltaXYWHBBoxCoder(target_stds=stds)
    anchors, boxes = random_boxes(200), random_boxes(200, 1)
    deltas = np.random.default_rng(2).normal(0, 3, (200, 4)).astype(np.float32)
    given = [torch.from_numpy(each) for each in (anchors, boxes, deltas)]
    np.testing.assert_allclose(encode(anchors, boxes, stds), coder.encode(given[0], given[1]), rtol=2e-6, atol=1e-5)
    expected = coder.decode(given[0], given[2], max_shape=(250, 333))
    found = decode(anchors, deltas, stds, size=np.int32([250, 333]))
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=1e-4)  # pixels; sums of up to 1e3
    expected = coder.decode(given[0], given[2])
    np.testing.assert_allclose(decode(anchors, deltas, stds), expected, rtol=2e-6, atol=2e-3)  # sums of up to 1e4


@pytest.mark.parametrize("strides", [(4, 8, 16, 32, 64), (8, 16, 32, 64, 128)], ids=str)
@pytest.mark.parametrize(("scales", "ratios"), [([8], [0.5, 1.0, 2.0]), ([8], [1.0]), ([4, 8], [0.5, 3.0])])
def test_anchors_and_valid_positions_are_mmdetections(strides, scales, ratios):
    from mmdet.models.task_modules.prior_generators import AnchorGenerator

    generator = AnchorGenerator(strides=list(strides), scales=scales, ratios=ratios)
    padded, canvas = (97, 130), (128, 160)
    sizes = [tuple(-(-side // stride) for side in canvas) for stride in strides]
    flags = generator.valid_flags(sizes, padded, device="cpu")
    for size, stride, expected, valid in zip(
        sizes, strides, generator.grid_priors(sizes, device="cpu"), flags, strict=True
    ):
        found = grid_anchors(size, stride, anchor_sides(stride, scales, ratios))
        np.testing.assert_array_equal(found, expected)
        inside = np.repeat(inside_padded(size, stride, np.int32(padded)), len(scales) * len(ratios))
        np.testing.assert_array_equal(inside, valid)


@pytest.mark.parametrize("count", [10, 300, 1500])
def test_nms_keeps_torchvisions_boxes(count):
    rng = np.random.default_rng(count)
    for case in range(10):
        boxes = random_boxes(count, case, size=200)
        scores = np.float32(rng.integers(0, 50, count) / 50 if case % 2 else rng.random(count))
        # The overlaps of whole pixels are often equal to the threshold.
        boxes = np.round(boxes / 10) * 10 if case > 5 else boxes
        expected = torchvision.ops.nms(torch.from_numpy(boxes), torch.from_numpy(scores), 0.5)
        found = np.flatnonzero(jax.jit(nms, static_argnums=2)(boxes, scores, 0.5))
        assert found.tolist() == sorted(expected.tolist())


@pytest.mark.parametrize("per_class", [False, True], ids=["boxes of all classes", "boxes per class"])
def test_detections_are_mmdetections(per_class):
    from mmdet.models.layers import multiclass_nms as theirs

    rng = np.random.default_rng(5)
    boxes = random_boxes(600 * 8).reshape(600, 32) if per_class else random_boxes(600)
    scores, factors = np.float32(rng.random((600, 8))), np.float32(rng.random(600))
    padded = torch.from_numpy(np.pad(scores, ((0, 0), (0, 1))))  # mmdetection's last class is the background
    options = dict(type="nms", iou_threshold=0.6)
    dets, labels = theirs(torch.from_numpy(boxes), padded, 0.4, options, 100, torch.from_numpy(factors))
    found = multiclass_nms(
        boxes.reshape(600, 8, 4) if per_class else boxes,
        scores,
        factors=factors,
        score_threshold=0.4,
        iou_threshold=0.6,
        candidates=4000,
        keep=100,
    )
    assert int(found.overflow) == 0
    np.testing.assert_array_equal(found.labels, labels)
    np.testing.assert_array_equal(found.boxes, dets[:, :4])
    np.testing.assert_array_equal(found.scores, dets[:, 4])


def regions(count, height, width, seed=0):
    """Returns boxes in an image, most of them small, some long."""
    rng = np.random.default_rng(seed)
    scale, ratio = np.exp(rng.uniform(np.log(4), np.log(height), count)), np.exp(rng.normal(0, 0.7, count))
    sides = np.stack([scale * ratio, scale / ratio], axis=1)
    centres = rng.uniform(0, [width, height], (count, 2))
    boxes = np.concatenate([centres - sides / 2, centres + sides / 2], axis=1)
    return np.clip(boxes, 0, [width, height, width, height]).astype(np.float32)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(("size", "samples"), [(7, 0), (14, 0), (7, 2)])
def test_roi_align_is_torchvisions(implementation, size, samples):
    strides, (height, width) = (4, 8, 16, 32), (456, 480)
    rng = np.random.default_rng(0)
    maps = [np.float32(rng.normal(0, 1, (2, -(-height // s), -(-width // s), 6))) for s in strides]
    boxes = np.stack([regions(80, height, width, seed) for seed in (0, 1)])
    boxes[:, 0] = [3, 5, 470, 451]
    levels = np.asarray(assign_levels(boxes, 4))
    assert {0, 1, 2, 3} == set(levels[0]) == set(levels[1])
    cotangent = np.float32(rng.normal(0, 1, (2, 80, size, size, 6)))

    given = [torch.from_numpy(x).permute(0, 3, 1, 2).contiguous().requires_grad_() for x in maps]
    expected = torch.zeros(2, 80, 6, size, size)
    for level, stride in enumerate(strides):
        for image in range(2):
            here = np.flatnonzero(levels[image] == level)
            rois = torch.from_numpy(np.pad(boxes[image, here], ((0, 0), (1, 0)), constant_values=image))
            expected[image, here] = torchvision.ops.roi_align(given[level], rois, size, 1 / stride, samples, True)
    expected.backward(torch.from_numpy(cotangent).permute(0, 1, 4, 2, 3).contiguous())

    def compute(maps):
        return roi_align(maps, boxes, strides, size, samples=samples, implementation=implementation)

    found, transposed = jax.vjp(jax.jit(compute), maps)
    assert relative(found, expected.detach().permute(0, 1, 3, 4, 2)) < 1e-5
    for ours, theirs in zip(transposed(cotangent)[0], given, strict=True):
        assert relative(ours, theirs.grad.permute(0, 2, 3, 1)) < 1e-5


def paste_cases():
    """Yields masks, boxes and sizes of images: random ones, and boxes without area, huge, and of whole pixels."""
    rng = np.random.default_rng(0)
    for height, width in ((60, 90), (33, 1), (200, 301)):
        corners = rng.uniform(-20, [width, height], (40, 2))
        boxes = np.concatenate([corners, np.maximum(corners + np.exp(rng.uniform(-3, 5, (40, 2))), 0)], axis=1)
        yield rng.random((40, 28, 28)), boxes, (height, width)
    special = [[5, 5, 5, 30], [5.5, 5, 5.5, 30], [-300, -300, 400, 400], [3, 4, 3.01, 40], [7, 8, 7, 8], [7, 8, 7.5, 8]]
    yield rng.random((6, 28, 28)), np.array(special), (50, 60)
    whole = np.array([[0, 0, 28, 28], [3, 4, 31, 32], [10, 10, 24, 24], [1, 2, 57, 58], [0, 0, 112, 112]])
    yield rng.integers(0, 2, (5, 28, 28)), whole, (64, 80)  # many values of exactly 1/2


def test_pasted_masks_are_mmdetections():
    from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask

    set_pixels = 0
    for masks, boxes, size in paste_cases():
        for mask, box in zip(np.float32(masks), np.float32(boxes), strict=True):
            given = torch.from_numpy(mask)[None, None], torch.from_numpy(box)[None]
            values, places = _do_paste_mask(*given, *size, skip_empty=True)
            expected = np.zeros(size, bool)
            expected[places] = (values[0] >= 0.5).numpy()
            np.testing.assert_array_equal(paste(mask, box, size), expected)
            set_pixels += expected.sum()
    assert set_pixels > 10_000


def test_levels_are_mmdetections():
    from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor

    layer = dict(type="RoIAlign", output_size=7, sampling_ratio=0)
    extractor = SingleRoIExtractor(roi_layer=layer, out_channels=1, featmap_strides=[4, 8, 16, 32])
    boxes = regions(2000, 800, 1333)
    expected = extractor.map_roi_levels(torch.from_numpy(np.pad(boxes, ((0, 0), (1, 0)))), 4)
    np.testing.assert_array_equal(assign_levels(boxes, 4), expected)
