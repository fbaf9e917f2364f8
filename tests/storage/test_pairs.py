"""Images with masks in a bucket are read as if they were on a disk."""

import numpy as np
import pytest
from ml_collections import ConfigDict

from focalnet_jax.data.masks import decode_pair
from focalnet_jax.data.prepare.__main__ import main
from focalnet_jax.errors import UserError
from focalnet_jax.tasks.segmentation.sources import open_segmentation_source
from tests.data.ade20k import ade20k_files, write_zip
from tests.data.masks import write_pairs
from tests.data.preparing import in_process  # noqa: F401
from tests.data.test_prepare_ade20k import prepared as prepare_ade20k


def opened(source, path, cache, split="train"):
    keys = {"source": source, "path": str(path), "cache": str(cache), "train_split": "train"}
    return open_segmentation_source(ConfigDict(keys), split)


def same(one, other):
    assert len(one) == len(other) > 0
    assert one.fingerprint == other.fingerprint
    for index in range(len(one)):
        pairs = [decode_pair(*source[index], source.coding) for source in (one, other)]
        for first, second in zip(*pairs, strict=True):
            np.testing.assert_array_equal(first, second)


def test_a_folder_of_images_and_masks_is_copied(here, tmp_path):
    write_pairs(tmp_path / "pairs")
    (tmp_path / "pairs/classes.txt").write_text("sky\nroad\ncar\n")
    here.copy_from(tmp_path / "pairs", "pairs")
    local = opened("folder", tmp_path / "pairs", tmp_path / "cache")
    same(local, opened("folder", "gs://bucket/pairs", tmp_path / "cache"))
    with pytest.raises(UserError, match=r"gs://bucket/pairs/images has no split 'val'; it contains train"):
        opened("folder", "gs://bucket/pairs", tmp_path / "cache", "val")
    with pytest.raises(UserError, match=r"nothing at data.path=gs://bucket/none; expected images/SPLIT"):
        opened("folder", "gs://bucket/none", tmp_path / "cache")


def test_prepared_images_and_masks_are_copied(here, in_process, tmp_path):  # noqa: F811
    archive = write_zip(tmp_path / "a.zip", ade20k_files())
    prepare_ade20k(tmp_path / "out", archive)
    here.copy_from(tmp_path / "out", "ade20k")
    remote = opened("tfds", "gs://bucket/ade20k", tmp_path / "cache")
    same(opened("tfds", tmp_path / "out", tmp_path / "cache"), remote)


def test_ade20k_is_prepared_from_and_to_a_bucket(here, in_process, tmp_path):  # noqa: F811
    archive = write_zip(tmp_path / "a.zip", ade20k_files())
    prepare_ade20k(tmp_path / "out", archive)
    here.write("archives/ADEChallengeData2016.zip", archive.read_bytes())
    arguments = ["--source", "gs://bucket/archives/ADEChallengeData2016.zip", "--out", "gs://bucket/scenes"]
    assert main(["ade20k", *arguments, "--cache", str(tmp_path / "cache"), "--processes", "1"]) == 0
    remote = opened("tfds", "gs://bucket/scenes", tmp_path / "cache2")
    same(opened("tfds", tmp_path / "out", tmp_path / "cache2"), remote)
