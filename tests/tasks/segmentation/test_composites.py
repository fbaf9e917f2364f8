"""Composites of digits are deterministic, and their masks show where the digits are."""

import numpy as np
import pytest
from ml_collections import ConfigDict

from focalnet_jax.data.masks import decode_pair
from focalnet_jax.errors import UserError
from focalnet_jax.tasks.segmentation.composites import DigitComposites
from focalnet_jax.tasks.segmentation.sources import open_segmentation_source


def test_an_example_depends_on_split_and_index_only():
    data = ConfigDict({"source": "digits", "path": None, "cache": "", "train_split": "train"})
    first, second = (open_segmentation_source(data, "train") for _ in range(2))
    assert (len(first), len(open_segmentation_source(data, "val"))) == (512, 128)
    second[7]
    for index in (0, 3, 511):
        for one, other in zip(first[index], second[index], strict=True):
            np.testing.assert_array_equal(one, other)
    assert not np.array_equal(first[0][0], first[1][0])
    assert not np.array_equal(first[0][0], DigitComposites("val")[0][0])
    assert first.fingerprint == second.fingerprint != DigitComposites("val").fingerprint


def test_masks_have_the_background_the_digits_and_ignored_edges():
    source = DigitComposites("train")
    assert source.class_names == ("background", *"0123456789")
    counts = np.zeros(256, int)
    for index in range(64):
        image, mask = decode_pair(*source[index], source.coding)
        assert (image.shape, image.dtype, mask.shape) == ((64, 64, 3), np.uint8, (64, 64))
        assert (image[(mask > 0) & (mask < 255)] >= 128).all()  # ink
        assert (image[mask == 0] <= 96).all()
        counts += np.bincount(mask.ravel(), minlength=256)
    assert (counts[:11] > 0).all()
    assert counts[11:255].sum() == 0
    assert 0.02 < counts[255] / counts.sum() < 0.15
    assert 0.6 < counts[0] / counts.sum() < 0.9


def test_an_unknown_split_is_one_line():
    with pytest.raises(UserError, match=r"has no split 'test'; expected train or val"):
        DigitComposites("test")
