"""Images with annotations in COCO's format in a bucket are read as if they were on a disk."""

import json

import numpy as np

from focalnet_jax.data.coco.folder import LAYOUT, CocoFolder
from focalnet_jax.data.decode import decode
from focalnet_jax.data.prepare.__main__ import main
from focalnet_jax.data.segments import bitmap
from focalnet_jax.data.staged import local_folder
from focalnet_jax.tasks.detection.records import CocoRecords
from tests.data.coco import coco_content, write_coco
from tests.data.preparing import in_process  # noqa: F401


def same(one, other):
    assert len(one) == len(other) > 0
    assert json.dumps(one.ground_truth()) == json.dumps(other.ground_truth())
    np.testing.assert_array_equal(one.sizes, other.sizes)
    for index in range(len(one)):
        (image, first), (copy, second) = one[index], other[index]
        np.testing.assert_array_equal(decode(image), decode(copy))
        np.testing.assert_array_equal(first.boxes, second.boxes)
        size = tuple(one.sizes[index].tolist())
        for segments in zip(first.segments, second.segments, strict=True):
            np.testing.assert_array_equal(*(bitmap(segment, size) for segment in segments))


def test_a_folder_with_annotations_is_copied(here, tmp_path):
    source = write_coco(tmp_path / "coco", train=coco_content())
    here.copy_from(source, "coco")
    with local_folder("gs://bucket/coco", str(tmp_path / "cache"), ".", LAYOUT) as folder:
        local, remote = CocoFolder(str(source), "train"), CocoFolder(folder, "train")
        assert local.fingerprint == remote.fingerprint
        same(local, remote)


def test_annotations_are_prepared_from_and_to_a_bucket(here, in_process, tmp_path):  # noqa: F811
    source = write_coco(tmp_path / "coco", train=coco_content(), val=coco_content(5, seed=1))
    here.copy_from(source, "coco")
    given = source / "annotations/instances_val2017.json"
    here.write("given/my_val.json", given.read_bytes())
    assert main(["coco", "--source", str(source), "--out", str(tmp_path / "out"), "--processes", "1"]) == 0
    cache = ["--cache", str(tmp_path / "cache"), "--processes", "1"]
    assert main(["coco", "--source", "gs://bucket/coco", "--out", "gs://bucket/made_coco", *cache]) == 0
    for split in ("train", "val"):
        local = CocoRecords(str(tmp_path / "out"), split)
        remote = CocoRecords("gs://bucket/made_coco", split, str(tmp_path / "cache2"))
        assert local.fingerprint == remote.fingerprint
        same(local, remote)
    arguments = ["--source", str(source), "--annotations", "gs://bucket/given/my_val.json"]
    assert main(["coco", *arguments, "--out", str(tmp_path / "one"), *cache]) == 0
    same(CocoRecords(str(tmp_path / "one"), "val"), CocoRecords(str(tmp_path / "out"), "val"))
