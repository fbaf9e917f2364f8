"""Folders and archives become data sets in the order of the class list."""

import json
import shutil
import time

import pytest
import tensorflow_datasets as tfds
from PIL import Image

from focalnet_jax.data.prepare.__main__ import main
from focalnet_jax.data.prepare.workers import run_all
from focalnet_jax.data.tfds_source import TfdsSource
from focalnet_jax.errors import UserError
from tests.commands import assert_one_line_mistake
from tests.data.pictures import SYNSETS, encoded, write_imagenet
from tests.data.preparing import SMALL, contents, in_process, prepare, refused, share, write_tar  # noqa: F401

ONE = ["--processes", "1", "--shard-mb", "1"]


def test_archives_hold_the_same_as_folders_in_the_order_of_the_class_list(pictures, from_folders, tmp_path):
    labels = write_imagenet(pictures, tmp_path / "tars")
    done = prepare(
        "imagenet1k", "--source", tmp_path / "tars", "--val-labels", labels, "--out", tmp_path / "out", *SMALL
    )
    assert done.returncode == 0, done.stderr
    assert "997 without training images" in done.stdout
    folder = tmp_path / "out" / "imagenet2012" / "1.0.0"
    source = TfdsSource(str(tmp_path / "out"), "train")  # found below the given folder
    assert len(source.class_names) == 1000
    assert source.class_names[:3] == SYNSETS
    assert contents(folder, "train") == contents(from_folders, "train")
    assert sorted(contents(folder, "val")[0].values()) == sorted(contents(from_folders, "val")[0].values())
    assert tfds.builder("imagenet2012:1.0.0", data_dir=tmp_path / "out").info.splits["train"].num_examples == 29


def test_imagenet22k_has_its_21842_classes_and_holds_out_a_share_by_name(pictures, tmp_path):
    write_imagenet(pictures, tmp_path / "tars")
    whole = tmp_path / "tars" / "ILSVRC2012_img_train.tar"  # a tar with one tar per synset, like fall11_whole.tar
    done = prepare("imagenet22k", "--source", whole, "--held-out", "0.2", "--out", tmp_path / "out", *ONE)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "out" / "imagenet22k" / "1.0.0"
    train, val = contents(folder, "train")[0], contents(folder, "val")[0]
    assert len(train) + len(val) == 29
    assert not train.keys() & val.keys()
    assert set(val) == {name for name in train | val if share(name) < 0.2}
    source = TfdsSource(str(folder), "train[:50%]")
    assert (len(source.class_names), len(source)) == (21842, round(len(train) / 2))
    assert source.class_names[850] == "n04399382"


def test_an_error_is_one_line_whatever_processes_were_started(pictures, tmp_path):
    (tmp_path / "set" / "train" / "empty").mkdir(parents=True)
    done = prepare("imagefolder", "--source", tmp_path / "set", "--out", tmp_path / "out", *SMALL)
    assert_one_line_mistake(done, "contains no images")


def test_a_held_out_share_never_mixes_with_a_validation_split(tmp_path):
    picture = encoded(Image.new("RGB", (8, 8)))
    files = {f"imagenet21k_{split}/n01440764/n01440764_{n}.JPEG": picture for split in ("train", "val") for n in "12"}
    path = write_tar(tmp_path / "winter21.tar", files)
    arguments = ["imagenet22k", "--source", path, "--out", tmp_path / "out", "--processes", "1"]
    refused("already have a split val", *arguments, "--held-out", "0.5")
    assert main(list(map(str, arguments))) == 0
    card = json.loads((tmp_path / "out" / "imagenet22k" / "1.0.0" / "card.json").read_text())
    assert {split: of["examples"] for split, of in card["splits"].items()} == {"train": 2, "val": 2}


@pytest.mark.usefixtures("in_process")
def test_sources_that_make_no_sense_are_one_line(pictures, tmp_path):
    out = ["--out", tmp_path / "out"]
    refused("no such file", "imagefolder", "--source", tmp_path / "nowhere", *out)
    (tmp_path / "empty").mkdir()
    refused("found none", "imagefolder", "--source", tmp_path / "empty", *out)
    refused("ILSVRC2012_img_train.tar", "imagenet1k", "--source", tmp_path / "empty", *out)
    (tmp_path / "page.tar").write_text("<html>")
    refused("damaged or not a tar", "imagefolder", "--source", tmp_path / "page.tar", *out)
    (tmp_path / "packed.tar").write_bytes(b"\x1f\x8b" + bytes(600))
    refused("damaged", "imagenet22k", "--source", tmp_path / "packed.tar", *out)
    refused("--held-out 2.0", "imagefolder", "--source", pictures, "--held-out", "2", *out)
    refused("--name My", "imagefolder", "--source", pictures, "--name", "My Set", *out)
    (tmp_path / "twice.txt").write_text("a\nb\na\n")
    refused("each class once; a", "imagefolder", "--source", pictures, "--classes", tmp_path / "twice.txt", *out)
    refused("found none", "tfrecord", "--source", pictures, *out)
    write_imagenet(pictures, tmp_path / "tars")
    refused("give --val-labels", "imagenet1k", "--source", tmp_path / "tars", *out)
    (tmp_path / "wrong.txt").write_text("1\n2\n")
    refused("meta.mat", "imagenet1k", "--source", tmp_path / "tars", "--val-labels", tmp_path / "wrong.txt", *out)
    (tmp_path / "short.txt").write_text("ILSVRC2012_val_00000002.JPEG n01440764\n")
    told = "contains 8 images that the label list lacks, such as ILSVRC2012_val_00000003.JPEG"
    refused(told, "imagenet1k", "--source", tmp_path / "tars", "--val-labels", tmp_path / "short.txt", *out)


def _write_for_ever(folder, fails):
    """Fails as soon as another call writes; otherwise writes forever."""
    mark = folder / "written"
    if fails:
        while not mark.exists():
            time.sleep(0.01)
        raise UserError("enough")
    while True:
        folder.mkdir(exist_ok=True)
        mark.write_text(str(time.monotonic()))


def test_when_one_call_fails_no_process_of_the_others_writes_on(tmp_path):
    with pytest.raises(UserError, match="enough"):
        run_all(_write_for_ever, [(tmp_path, False), (tmp_path, True)], 2, lambda done, result: None)
    shutil.rmtree(tmp_path)
    time.sleep(0.2)
    assert not tmp_path.exists()
