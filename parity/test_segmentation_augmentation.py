"""Images and masks of semantic segmentation are augmented like by mmsegmentation, given the same random draws."""

from dataclasses import replace

import cv2
import mmcv
import numpy as np
import pytest
import torch
from mmengine.structures import PixelData

from focalnet_jax.data.geometry import fitted_size, resize
from focalnet_jax.data.masks import IGNORED
from focalnet_jax.data.photometric import Distortion
from focalnet_jax.data.statistics import IMAGENET_MEAN, IMAGENET_STD
from focalnet_jax.tasks.segmentation.augment import Augmentation
from parity.draws import photos
from parity.mmseg_transforms import augmented, mask_of  # before mmseg, which it makes loadable

from mmseg.structures import SegDataSample  # isort: skip
from mmseg.utils import stack_batch  # isort: skip

RECIPE = Augmentation()
PHOTOS = photos()


def both(augmentation, photo, seed, mask=None):
    """Returns our arrays and mmseg's results."""
    mask = mask_of(photo) if mask is None else mask
    draws = augmentation.draw(np.random.default_rng(seed), *mask.shape)
    unit = np.random.default_rng(seed).random()  # the first draw, from which the ratio is computed
    return augmentation.apply(photo, mask, draws), augmented(augmentation, photo, mask, unit, draws)


def assert_same(ours, theirs):
    height, width = theirs["img"].shape[:2]
    assert ours["size"].tolist() == [height, width]
    np.testing.assert_array_equal(ours["image"][:height, :width], theirs["img"][..., ::-1])
    np.testing.assert_array_equal(ours["mask"][:height, :width], theirs["gt_seg_map"])
    assert not ours["image"][height:].any()
    assert not ours["image"][:, width:].any()
    assert (ours["mask"][height:] == IGNORED).all()
    assert (ours["mask"][:, width:] == IGNORED).all()


@pytest.mark.parametrize("number", range(len(PHOTOS)))
def test_the_recipes_pixels_and_labels_are_mmsegs(number):
    for seed in range(25):
        assert_same(*both(RECIPE, PHOTOS[number], seed))


@pytest.mark.parametrize("size", [(97, 130), (64, 64), (301, 33), (1, 1)])
def test_crops_of_any_size_are_mmsegs(size):
    for seed in range(20):
        photo = PHOTOS[seed % len(PHOTOS)][seed : 150 + 3 * seed, : 190 - 5 * seed]
        assert_same(*both(replace(RECIPE, size=size, box=(512, 128)), photo, seed))


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (2, 3), (700, 9)])
def test_tiny_and_narrow_images_are_mmsegs(shape):
    for seed in range(5):
        photo = np.ascontiguousarray(np.resize(PHOTOS[0][100:140, 100:140], (*shape, 3)))
        assert_same(*both(replace(RECIPE, size=(70, 80), box=(512, 128)), photo, seed))


def test_crops_are_drawn_again_like_in_mmseg():
    chosen = set()
    for share in (0.75, 0.6):
        augmentation = replace(RECIPE, size=(90, 90), cat_max_ratio=share, photometric=None)
        for seed in range(20):
            mask = mask_of(PHOTOS[0]) // 2
            ours, theirs = both(augmentation, PHOTOS[0], seed, mask)
            assert_same(ours, theirs)
            counts = np.bincount(ours["mask"].ravel(), minlength=256)[:IGNORED]
            chosen.add((share, bool(counts.max() < share * counts.sum())))
    assert {(0.75, True), (0.75, False), (0.6, True), (0.6, False)} <= chosen  # the last draw is not checked


@pytest.mark.parametrize(("saturation", "hue"), [(0.5, 17), (1.49, -18)])
def test_all_colours_are_distorted_like_by_opencv(saturation, hue):
    levels = np.arange(256, dtype=np.uint8)
    for red in range(0, 256, 8):
        image = np.stack(np.meshgrid(levels[red : red + 8], levels, levels, indexing="ij"), -1).reshape(-1, 1024, 3)
        colours = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
        colours[..., 1] = np.clip(colours[..., 1] * np.float32(saturation), 0, 255)
        colours = cv2.cvtColor(cv2.cvtColor(colours, cv2.COLOR_HSV2RGB), cv2.COLOR_RGB2HSV)
        colours[..., 0] = (colours[..., 0].astype(np.int16) + hue) % 180
        Distortion(saturation=saturation, hue=hue).apply(image)
        np.testing.assert_array_equal(image, cv2.cvtColor(colours, cv2.COLOR_HSV2RGB))


def test_normalized_images_are_padded_with_zeros():
    augmentation = replace(RECIPE, size=(400, 500))
    ours, theirs = both(augmentation, PHOTOS[1], 3)
    mean, std = (np.float32([255 * value for value in values]) for values in (IMAGENET_MEAN, IMAGENET_STD))
    normalized = ((theirs["img"][..., ::-1] - mean) / std).transpose(2, 0, 1)
    sample = SegDataSample(gt_sem_seg=PixelData(data=torch.from_numpy(theirs["gt_seg_map"].copy())[None]))
    images, [sample] = stack_batch([torch.from_numpy(normalized)], [sample], augmentation.size, seg_pad_val=IGNORED)
    height, width = ours["size"]
    assert width < 500
    padded = (ours["image"] - mean) / std
    padded[height:], padded[:, width:] = 0, 0
    np.testing.assert_array_equal(padded, images[0].permute(1, 2, 0))
    np.testing.assert_array_equal(ours["mask"], sample.gt_sem_seg.data[0])


@pytest.mark.parametrize("ratio", [0.5, 0.75, 1.0, 1.25, 1.5, 1.75])
def test_evaluation_resizes_like_mmcv(ratio):
    box = (int(2048 * ratio), int(512 * ratio))
    for photo in PHOTOS:
        theirs = mmcv.imrescale(photo, box)
        np.testing.assert_array_equal(resize(photo, fitted_size(*photo.shape[:2], box)), theirs)


def test_sizes_are_mmcvs():
    draw = np.random.default_rng(0)
    for height, width, long, short in draw.integers(1, 3000, (20000, 4)).tolist():
        theirs = mmcv.rescale_size((width, height), (long, short))
        assert fitted_size(height, width, (long, short)) == tuple(max(1, side) for side in theirs[::-1])
