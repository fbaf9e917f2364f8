"""Training examples of semantic segmentation: exact pixels, masks aligned with images, and sizes without a crop."""

import math
import pickle
from dataclasses import replace

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from sklearn.datasets import load_sample_images

from focalnet_jax.data.decode import UnreadableImageError
from focalnet_jax.data.geometry import Placement, fitted_size
from focalnet_jax.data.loader import ReadOptions, train_batches
from focalnet_jax.data.masks import IGNORED, MaskCoding
from focalnet_jax.tasks.segmentation.augment import Augmentation
from focalnet_jax.tasks.segmentation.host import SegmentationHost
from tests.data.augmented import digest, read_golden

SMALL = Augmentation(size=(64, 48), box=(256, 64))
PHOTO = load_sample_images().images[0]


def generator(seed):
    return np.random.default_rng(seed)


def test_pixels_and_labels_are_mmsegmentations():
    for size, image, mask, draws, expected in read_golden():
        arrays = Augmentation(size=size).apply(image, mask, draws)
        height, width = arrays["size"]
        assert (digest(arrays["image"][:height, :width]), digest(arrays["mask"][:height, :width])) == expected


@pytest.mark.parametrize("shape", [(97, 61), (300, 400), (33, 200), (5, 400), (1, 300)])
def test_the_mask_stays_aligned_with_the_image(shape):
    rows, columns = np.indices(shape) // 16
    mask = ((rows * 7 + columns * 3) % 11).astype(np.uint8)  # blocks, each of the colour of its label
    image = np.repeat(mask[..., None] * np.uint8(20), 3, axis=2)
    augmentation = replace(SMALL, photometric=None)
    compared = 0
    for seed in range(20):
        draws = augmentation.draw(generator(seed), *shape)
        arrays = augmentation.apply(image, mask, draws)
        height, width = arrays["size"]
        pixels, labels = arrays["image"][:height, :width, 0], arrays["mask"][:height, :width]
        # Bilinear interpolation uses neighbours within one pixel of the image, and the nearest label is taken from half
        # a pixel away. Further inside of a block, both have the value of the block.
        far = math.ceil(1.5 * draws.full[0] / shape[0]) + 1
        around = sliding_window_view(np.pad(labels, far, constant_values=IGNORED), (2 * far + 1, 2 * far + 1))
        inside = np.ptp(around, axis=(2, 3)) == 0
        np.testing.assert_array_equal(pixels[inside], 20 * labels[inside])
        compared += inside.sum()
    assert compared > 1000 or min(shape) < 16


def test_the_padding_is_outside_the_size_and_ignored():
    arrays = replace(SMALL, ratio=(0.5, 0.5))(PHOTO, np.zeros(PHOTO.shape[:2], np.uint8), generator(0))
    assert arrays["size"].tolist() == [32, 48]
    assert arrays["image"].shape == (64, 48, 3)
    assert not arrays["image"][32:].any()
    assert (arrays["mask"][32:] == IGNORED).all()
    assert not arrays["mask"][:32].any()
    assert arrays["size"].dtype == np.int32
    assert arrays["image"].dtype == arrays["mask"].dtype == np.uint8


def test_an_image_of_one_pixel_fills_the_crop():
    pixel, label = np.full((1, 1, 3), [3, 100, 250], np.uint8), np.full((1, 1), 2, np.uint8)
    arrays = replace(SMALL, photometric=None)(pixel, label, generator(0))
    assert arrays["size"].tolist() == [64, 48]
    assert (arrays["image"] == pixel).all()
    assert (arrays["mask"] == 2).all()


def test_masks_without_a_class_are_allowed():
    arrays = SMALL(PHOTO, np.full(PHOTO.shape[:2], IGNORED, np.uint8), generator(0))
    assert (arrays["mask"] == IGNORED).all()


def test_crops_mix_classes_where_a_draw_allows_it():
    mask = np.zeros(PHOTO.shape[:2], np.uint8)
    mask[:, :200] = 1
    mask[:, 300:] = IGNORED

    def mixed(augmentation):
        crops = [augmentation(PHOTO, mask, generator(seed))["mask"] for seed in range(60)]
        counts = [np.bincount(crop.ravel(), minlength=256)[:IGNORED] for crop in crops]
        return np.mean([(count > 0).sum() > 1 and count.max() < 0.75 * count.sum() for count in counts])

    assert mixed(replace(SMALL, cat_max_ratio=1.0)) < 0.5
    assert mixed(SMALL) > 0.8


def test_sides_that_would_vanish_have_one_pixel():
    assert fitted_size(4096, 1, (1024, 256)) == (1024, 1)
    assert fitted_size(1, 2**20, (2048, 512)) == (1, 2048)
    arrays = SMALL(np.full((1, 3000, 3), 7, np.uint8), np.zeros((1, 3000), np.uint8), generator(1))
    assert arrays["size"].tolist() == [1, 48]


def test_a_crop_equals_a_part_of_the_whole_image():
    draw = generator(0)
    mask = PHOTO[..., 1].astype(np.int32) + 300  # such as numbers of instances
    for _ in range(40):
        full = tuple(draw.integers(1, 500, 2).tolist())
        height, width = (int(draw.integers(1, side + 1)) for side in full)
        top, left = int(draw.integers(0, full[0] - height + 1)), int(draw.integers(0, full[1] - width + 1))
        part, whole = Placement(full, top, left, (height, width), mirrored=True), Placement(full, 0, 0, full)
        box = np.s_[top : top + height, left : left + width]
        np.testing.assert_array_equal(part.image(PHOTO), whole.image(PHOTO)[box][:, ::-1])
        np.testing.assert_array_equal(part.labels(mask), whole.labels(mask)[box][:, ::-1])


def test_an_image_of_the_right_size_is_unchanged():
    np.testing.assert_array_equal(Placement(PHOTO.shape[:2], 0, 0, PHOTO.shape[:2]).image(PHOTO), PHOTO)


class Pairs:
    """A source of photos with masks."""

    class_names, fingerprint = ("a", "b"), "pairs"

    def __len__(self):
        return 6

    def __getitem__(self, index):
        photo = PHOTO[10 * index : 200 + 10 * index, : 300 - 20 * index]
        return photo, (photo[..., 0] > 128).astype(np.uint8)

    def name(self, index):
        """Returns the name of an example."""
        return str(index)


def test_batches_depend_only_on_seed_step_and_place():
    host = pickle.loads(pickle.dumps(SegmentationHost(SMALL, MaskCoding(2))))

    def batches(seed, start, threads):
        reading = ReadOptions(threads=threads)
        return list(
            train_batches(Pairs(), host, batch_size=3, seed=seed, start_step=start, end_step=6, reading=reading)
        )

    whole, resumed, other = batches(1, 0, 1), batches(1, 4, 3), batches(2, 0, 2)
    for expected, found in zip(whole[4:], resumed, strict=True):
        for name in ("image", "mask", "size"):
            np.testing.assert_array_equal(found[name], expected[name])
    assert any((a["image"] != b["image"]).any() for a, b in zip(whole, other, strict=True))
    assert whole[0]["image"].shape == (3, 64, 48, 3)
    assert whole[0]["mask"].shape == (3, 64, 48)


def test_a_mask_of_another_size_is_an_error_that_names_both():
    with pytest.raises(UnreadableImageError, match="its mask has 4x3 pixels, the image 640x427"):
        SegmentationHost(SMALL, MaskCoding(2)).train_example((PHOTO, np.zeros((3, 4), np.uint8)), generator(0))
