"""`data.prepare ade20k` keeps the bytes of the archives, checks every pair, and names what is wrong with an archive."""

import gzip
import io
import json
import zipfile

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from focalnet_jax.data.masks import decode_pair
from focalnet_jax.data.prepare import pairs
from focalnet_jax.data.prepare.__main__ import main
from focalnet_jax.data.segment_classes import ade20k_classes
from focalnet_jax.data.tfds_source import TfdsSource
from focalnet_jax.errors import UserError
from focalnet_jax.tasks.segmentation.sources import open_segmentation_source
from tests.data.ade20k import ROOT, ade20k_files, object_info, pair, write_instances, write_zip
from tests.data.masks import grey_png
from tests.data.pictures import encoded
from tests.data.preparing import in_process, refused  # noqa: F401

pytestmark = pytest.mark.usefixtures("in_process")


def prepared(out, *sources, **flags):
    """Prepares in this process, and returns the folder of the data set and its card."""
    options = [f"--{name.replace('_', '-')}={value}" for name, value in flags.items()]
    assert main(["ade20k", "--source", *map(str, sources), "--out", str(out), "--processes=1", *options]) == 0
    return out / "ade20k/1.0.0", json.loads((out / "ade20k/1.0.0/card.json").read_text())


def opened(path, split="train", **keys):
    data = {"source": "tfds", "path": str(path), "cache": "unused", "train_split": "train"} | keys
    return open_segmentation_source(ConfigDict(data), split)


def by_name(source):
    """Returns the decoded pairs of a source by the name of the image."""
    found = {}
    for index in range(len(source)):
        name = source.name(index).partition(" (")[0].rpartition("/")[2]
        found[name] = decode_pair(*source[index], source.coding)
    return found


def test_images_masks_and_instances_keep_their_bytes(tmp_path, capsys):
    files = ade20k_files()
    sources = write_zip(tmp_path / "ADEChallengeData2016.zip", files), write_instances(tmp_path / "i.tar", files)
    folder, card = prepared(tmp_path / "out", *sources)
    for split, count in (("train", 5), ("val", 2)):
        source = opened(tmp_path / "out", split)
        assert len(source) == count == card["splits"][split]["examples"]
        stored = {source.name(index).partition(" (")[0]: source[index] for index in range(count)}
        inside = "training" if split == "train" else "validation"
        assert stored == {
            f"ADE_{split}_{number:08d}.jpg": (
                files[f"{ROOT}/images/{inside}/ADE_{split}_{number:08d}.jpg"],
                files[f"{ROOT}/annotations/{inside}/ADE_{split}_{number:08d}.png"],
            )
            for number in range(1, count + 1)
        }
    assert source.class_names == ade20k_classes().names
    np.testing.assert_array_equal(source.palette, ade20k_classes().palette)
    assert (source.coding.num_classes, source.coding.reduce_zero_label, source.coding.colours) == (150, True, ())
    example = source.records[0]
    mask = np.asarray(Image.open(io.BytesIO(example["mask"])))
    instances = np.asarray(Image.open(io.BytesIO(example["instances"])))
    np.testing.assert_array_equal(instances[..., 0], mask)
    assert card["classes"]["wall"] == {"train": 5, "val": 2}  # images with the stored label 1
    out = capsys.readouterr().out
    assert "note: ADE20K has 20,210 images of train and 2,000 of val" in out
    assert f"train with --config configs/upernet_ade20k.py:VARIANT --config.data.path={folder}" in out


def test_the_unpacked_archive_is_read_as_a_folder_with_the_same_pairs(tmp_path):
    archive = write_zip(tmp_path / "a.zip", ade20k_files())
    prepared(tmp_path / "out", archive)
    zipfile.ZipFile(archive).extractall(tmp_path)
    keys = {"source": "folder", "train_split": "training", "classes": "ade20k"}
    folder = by_name(opened(tmp_path / ROOT, "training", **keys))
    records = by_name(opened(tmp_path / "out"))
    assert folder.keys() == records.keys()
    for name, (image, mask) in records.items():
        np.testing.assert_array_equal(image, folder[name][0])
        np.testing.assert_array_equal(mask, folder[name][1])
        assert 255 in mask
        assert mask.max() == 255


def test_the_order_does_not_depend_on_the_archive_and_is_not_that_of_the_names(tmp_path, capsys):
    files = ade20k_files(train=12)
    _, first = prepared(tmp_path / "first", write_zip(tmp_path / "a.zip", files))
    renamed = {name.removeprefix(f"{ROOT}/"): content for name, content in reversed(files.items())}
    _, second = prepared(tmp_path / "second", write_zip(tmp_path / "b.zip", renamed))
    assert first["fingerprint"] == second["fingerprint"]
    names = list(by_name(opened(tmp_path / "first")))
    assert names == list(by_name(opened(tmp_path / "second")))
    assert names != sorted(names)
    assert opened(tmp_path / "first").fingerprint == opened(tmp_path / "second").fingerprint
    _, split = prepared(tmp_path / "third", tmp_path / "a.zip", shard_mb=0.001)
    assert split["splits"]["train"]["shards"] > 1
    assert list(by_name(opened(tmp_path / "third"))) == names
    capsys.readouterr()
    prepared(tmp_path / "first", tmp_path / "a.zip")
    assert "already contains this data set" in capsys.readouterr().out
    write_zip(tmp_path / "a.zip", ade20k_files(train=11))
    refused("belongs to another preparation: images was 14, now 13", *arguments(tmp_path / "first", tmp_path / "a.zip"))


def arguments(out, *sources):
    return ["ade20k", "--source", *sources, "--out", out, "--processes", "1"]


@pytest.mark.fault(53)
def test_pairs_that_cannot_be_used_are_rejected_and_listed(tmp_path, capsys):
    files = ade20k_files()
    image, mask = (f"{ROOT}/{kind}/training/ADE_train_" for kind in ("images", "annotations"))
    files |= {
        f"{image}00000011.jpg": pair(1)[0][:300],
        f"{mask}00000011.png": pair(1)[1],
        f"{image}00000012.jpg": pair(1)[0],
        f"{mask}00000012.png": pair(1, (14, 11))[1],
        f"{image}00000013.jpg": pair(1)[0],
        f"{mask}00000013.png": grey_png(np.full((10, 14), 151)),
        f"{image}00000014.jpg": pair(1)[0],
        f"{mask}00000014.png": encoded(Image.fromarray(np.zeros((10, 14), np.uint8))),
        f"{image}00000015.jpg": pair(1)[0],
        f"{mask}00000016.png": pair(1)[1],
        f"{ROOT}/images/training/.hidden.jpg": b"",
    }
    folder, card = prepared(tmp_path / "out", write_zip(tmp_path / "a.zip", files))
    rows = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    found = {row["file"][10:18]: row["reason"] for row in rows if row["status"] == "rejected"}
    expected = {
        "00000011": "it is a JPEG image that cannot be decoded",
        "00000012": "its mask has 14x11 pixels, the image 14x10",
        "00000013": "its mask: it has the label 151",
        "00000014": "its mask: it is a JPEG image, a format that may change labels",
        "00000015": "it has no mask",
        "00000016": "the mask has no image",
    }
    assert found.keys() == expected.keys()
    for name, reason in expected.items():
        assert reason in found[name]
    assert (card["splits"]["train"]["examples"], card["rejected"]) == (5, 6)
    assert card["left_out"] == {".txt": 1, "hidden": 1}
    out = capsys.readouterr().out
    assert "images rejected: 6, normalized: 0" in out
    assert "rejected 1: it has no mask" in out


def test_a_stopped_preparation_is_resumed(tmp_path, capsys, monkeypatch):
    archive = write_zip(tmp_path / "a.zip", ade20k_files(train=12))
    _, whole = prepared(tmp_path / "whole", archive, shard_mb=0.003)
    write, written = pairs.write_pairs, []

    def stopped(job, shard, reports):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(shard)
        return write(job, shard, reports)

    monkeypatch.setattr(pairs, "write_pairs", stopped)
    with pytest.raises(KeyboardInterrupt):
        prepared(tmp_path / "out", archive, shard_mb=0.003)
    monkeypatch.setattr(pairs, "write_pairs", write)
    capsys.readouterr()
    folder, card = prepared(tmp_path / "out", archive, shard_mb=0.003)
    assert "resuming: 2 of " in capsys.readouterr().out
    assert card == whole
    assert not (folder / ".prepare").exists()


def cut(path, size):
    path.write_bytes(path.read_bytes()[:size])
    return path


@pytest.mark.fault(56)
def test_what_is_wrong_with_the_sources_is_one_line(tmp_path):
    out, files = tmp_path / "out", ade20k_files(2, 1)
    archive = write_zip(tmp_path / "a.zip", files)
    size = archive.stat().st_size
    short = cut(write_zip(tmp_path / "short.zip", files), size - 100)
    refused(f"{short} is truncated, damaged or not a zip archive", *arguments(out, short))
    refused("is truncated, damaged or not a zip archive", *arguments(out, cut(short, 0)))
    flipped = tmp_path / "flipped.zip"
    content = bytearray(archive.read_bytes())
    place = content.index(b"ADE_val_00000001.jpg") + 300
    content[place : place + 3] = bytes(255 - value for value in content[place : place + 3])
    flipped.write_bytes(content)
    refused(f"{flipped} is truncated, damaged or not a zip archive (", *arguments(tmp_path / "begun", flipped))
    other = write_zip(tmp_path / "other.zip", {"ADE20K_2016_07_26/index.mat": b"x"})
    refused("contains 0 images in images/training and images/validation and 0 masks", *arguments(out, other))
    names = [*ade20k_classes().names[:5], "cow", *ade20k_classes().names[6:]]
    wrong = write_zip(tmp_path / "w.zip", files | {f"{ROOT}/objectInfo150.txt": object_info(names).encode()})
    refused("are not those of SceneParse150: 6 is 'cow, something', not 'ceiling'", *arguments(out, wrong))
    short_list = files | {f"{ROOT}/objectInfo150.txt": object_info(["wall"]).encode()}
    refused("SceneParse150: there are 1, not 150", *arguments(out, write_zip(tmp_path / "l.zip", short_list)))
    refused("is a folder; expected ADEChallengeData2016.zip", *arguments(out, tmp_path))
    refused("expected ADEChallengeData2016.zip, and for instances", *arguments(out, archive, other))
    refused("there is no such file or folder", *arguments(out, tmp_path / "none.zip"))
    refused("the kind ade20k reads local files", *arguments(out, "hf://datasets/org/name"))
    refused("--held-out applies to", *arguments(out, archive), "--held-out", "0.1")
    tar = write_instances(tmp_path / "i.tar", {name: files[name] for name in files if "ADE_train_00000001" not in name})
    refused("lacks the instances of 1 images, such as ADE_train_00000001.jpg", *arguments(out, archive, tar))
    packed = tmp_path / "i.tar.gz"
    packed.write_bytes(gzip.compress(tar.read_bytes()))
    refused("is compressed: expected annotations_instance.tar", *arguments(out, archive, packed))
    assert not out.exists()


def test_prepared_pairs_are_refused_where_their_keys_contradict_them(tmp_path):
    folder, _ = prepared(tmp_path / "out", write_zip(tmp_path / "a.zip", ade20k_files()))
    with pytest.raises(UserError, match=r"0 is not a class in .*: remove --config.data.reduce_zero_label"):
        opened(folder, reduce_zero_label=False)
    assert opened(folder, reduce_zero_label=True).fingerprint == opened(folder).fingerprint  # reduced once
    (tmp_path / "two.txt").write_text("a\nb\n")
    with pytest.raises(UserError, match=r"two.txt has 2 classes, but the masks of .* have 150"):
        opened(folder, classes=str(tmp_path / "two.txt"))
    with pytest.raises(UserError, match=r"expected image and label"):
        TfdsSource(str(folder), "train")
    with pytest.raises(UserError, match=r"has no split 'test'"):
        opened(folder, "test")
