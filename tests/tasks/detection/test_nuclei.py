"""The nuclei of stardist's picture: tiles with masks, split by columns."""

from importlib.metadata import PackageNotFoundError, distribution

import numpy as np
import pytest

from focalnet_jax.data.segments import bitmap
from focalnet_jax.errors import UserError
from focalnet_jax.tasks.detection import nuclei
from focalnet_jax.tasks.detection.nuclei import Nuclei, picture

try:
    distribution("stardist")
except PackageNotFoundError:
    pytest.skip("needs the files of stardist", allow_module_level=True)


def test_the_masks_of_the_tiles_are_the_picture():
    pixels, numbers = picture()
    assert (pixels.shape, len(np.unique(numbers)) - 1) == ((512, 512, 3), 125)
    union = np.zeros((512, 512), int)
    for split, count in (("train", 12), ("val", 4)):
        source = Nuclei(split)
        assert len(source) == count
        for index in range(count):
            image, found = source[index]
            row, column = map(int, source.name(index).replace(",", "").split()[3::2])
            height, width = source.sizes[index].tolist()
            assert (height, width) == (128, 128)
            assert (column >= 384) == (split == "val")
            np.testing.assert_array_equal(image, pixels[row : row + height, column : column + width])
            for box, segment in zip(found.boxes.astype(int), found.segments, strict=True):
                mask = bitmap(segment, (height, width))
                x1, y1, x2, y2 = box
                assert mask[y1:y2, x1:x2].sum() == mask.sum()
                assert mask[y1].any()
                assert mask[:, x2 - 1].any()
                union[row : row + height, column : column + width] += mask
    np.testing.assert_array_equal(union, numbers > 0)


def test_small_parts_at_the_edge_of_a_tile_are_set_aside():
    source, numbers = Nuclei("val"), picture()[1]
    sizes = np.bincount(numbers.ravel())
    for index in range(len(source)):
        row, column = map(int, source.name(index).replace(",", "").split()[3::2])
        inside = numbers[row : row + 128, column : column + 128]
        expected = [(inside == n).sum() < 0.4 * sizes[n] for n in np.unique(inside) if n]
        assert source[index][1].crowd.tolist() == expected
    truth = source.ground_truth()
    assert sum(entry["iscrowd"] for entry in truth["annotations"]) == 7
    ids = [entry["id"] for entry in truth["annotations"]]
    assert len(set(ids)) == len(ids) == 34
    assert all(entry["segmentation"]["size"] == [128, 128] for entry in truth["annotations"])


def test_an_unknown_split_and_a_damaged_package_are_one_line(monkeypatch):
    with pytest.raises(UserError, match=r"has no split 'test'; expected train or val"):
        Nuclei("test")
    nuclei._load.cache_clear()
    monkeypatch.setattr(nuclei, "package_file", lambda *names: b"II*\0broken")
    with pytest.raises(UserError, match=r"the package stardist is damaged .*: pip install --force-reinstall"):
        Nuclei("val")
    monkeypatch.undo()
    nuclei._load.cache_clear()
