"""Masks of objects are augmented, and become targets of mask heads, like in mmdetection from whole bitmaps."""

import jax
import numpy as np
import pytest
import torch

from focalnet_jax.data.cutouts import cutout_of_crop
from focalnet_jax.data.instances import Instances
from focalnet_jax.data.mask_crops import packed_crop
from focalnet_jax.data.segments import encode_bitmap
from focalnet_jax.tasks.detection.augment import Augmentation
from focalnet_jax.tasks.detection.canvases import Canvases, padded_size
from focalnet_jax.tasks.detection.mask_targets import mask_targets
from parity import mmcv_stub
from tests.tasks.detection.test_masks import random_polygons

mmcv_stub.install()

pytestmark = pytest.mark.filterwarnings("ignore")

SIDE = 320  # cells of a crop: no object is larger
AUGMENTATION = Augmentation(
    Canvases(256, 320),
    short_sides=(24, 96, 256),
    long_side=310,
    crop_short_sides=(60, 180),
    crop_range=(40, 90),
    slots=8,
    mask_side=SIDE,
)


def objects(rng, size, count=6):
    """Returns annotations of polygons and run-length encodings, and mmdetection's bitmaps of them."""
    from mmdet.datasets.transforms import LoadAnnotations
    from mmdet.structures.mask import BitmapMasks

    load = LoadAnnotations(with_mask=True, poly2mask=True)
    segments = [random_polygons(rng, size) for _ in range(count)]
    for number in range(1, count, 2):
        segments[number] = encode_bitmap(load._poly2mask(segments[number], *size))
    return segments, BitmapMasks([load._poly2mask(segment, *size) for segment in segments], *size)


def test_augmented_masks_are_mmdetections():
    cropped = empty = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        size = tuple(rng.integers(20, 250, 2).tolist())
        segments, masks = objects(rng, size)
        everywhere = np.float32([[0, 0, *size[::-1]]] * len(segments))  # so that all objects are kept
        numbers = np.arange(len(segments))
        crowd, areas = np.zeros(len(segments), bool), np.ones(len(segments), np.float32)
        instances = Instances(0, everywhere, numbers.astype(np.int32), crowd, areas, numbers, segments)
        draws = AUGMENTATION.draw(rng, *size)
        made = AUGMENTATION.apply(np.zeros((*size, 3), np.uint8), instances, draws)
        if draws.mirrored:
            masks = masks.flip("horizontal")
        if (crop := draws.crop) is not None:
            corner = np.array([crop.left, crop.top])
            masks = masks.resize(crop.full).crop(np.concatenate([corner, corner + crop.size[::-1]]))
        masks = masks.resize(draws.size)
        assert made["labels"][: len(segments)].tolist() == numbers.tolist()
        for packed, frame, expected in zip(made["masks"], made["frames"], masks, strict=False):
            np.testing.assert_array_equal(cutout_of_crop(packed, frame).bitmap(draws.size), expected)
            empty += not expected.any()
        cropped += crop is not None
    assert cropped > 50
    assert empty > 50


def rois_of(rng, size, count):
    """Returns boxes that are small, large, partly or wholly outside, or at whole numbers and halves of pixels."""
    limits = np.array(size[::-1])
    corners = rng.uniform(-0.1, 1, (count, 2)) * limits
    sides = np.exp(rng.uniform(np.log(0.5), np.log(1.3 * max(size)), (count, 2)))
    rois = np.concatenate([corners, corners + sides], axis=1)
    rois[count // 2 :] = np.round(2 * rois[count // 2 :]) / 2
    return rois.astype(np.float32)


@pytest.mark.parametrize("seed", range(8))
def test_targets_of_mask_heads_are_mmdetections(seed):
    rng = np.random.default_rng(seed)
    size = tuple(rng.integers(40, 250, 2).tolist())
    _, masks = objects(rng, size)
    slots = np.array([packed_crop(mask, 0, 0, 256)[0] for mask in masks])
    frames = np.array([packed_crop(mask, 0, 0, 256)[1] for mask in masks])
    rois, chosen = rois_of(rng, size, 300), rng.integers(0, len(masks), 300)
    padded = masks.pad(padded_size(size, 32))
    given = torch.from_numpy(rois), (28, 28), torch.from_numpy(chosen)
    shares = padded.crop_and_resize(*given, binarize=False).masks
    expected = padded.crop_and_resize(*given).masks
    found = np.asarray(jax.jit(mask_targets)(slots, frames, chosen.astype(np.int32), rois, np.int32(size)))
    assert expected.mean() > 0.02
    different = found != expected
    # Where the average is exactly 0.5, the rounding of the samples' places in float32 decides.
    assert (abs(shares - 0.5)[different] < 1e-5).all()
    assert different.mean() < 1e-3


def test_targets_of_reduced_masks_differ_at_outlines_only():
    rng = np.random.default_rng(0)
    size = (240, 250)
    _, masks = objects(rng, size, 12)
    crops = [packed_crop(mask, 0, 0, 112) for mask in masks]
    frames = np.array([frame for _, frame in crops])
    large = np.flatnonzero((frames[:, 2:] - frames[:, :2]).max(axis=1) > 112)
    assert large.size > 3
    rois = frames[large] + rng.uniform(-9, 9, (large.size, 4)).astype(np.float32)
    padded = masks.pad(padded_size(size, 32))
    given = torch.from_numpy(rois), (28, 28), torch.from_numpy(large)
    shares = padded.crop_and_resize(*given, binarize=False).masks
    slots = np.array([packed for packed, _ in crops])
    found = np.asarray(jax.jit(mask_targets)(slots, frames, large.astype(np.int32), rois, np.int32(size)))
    different = found != (shares >= 0.5)
    assert (abs(shares - 0.5)[different] < 0.45).all()  # cells that an outline crosses
    assert different.mean() < 0.01
