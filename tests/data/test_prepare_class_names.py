"""Class names that TFDS's metadata cannot store are errors, because they would shift the labels of other classes."""

import json
import shutil
import unicodedata

import pytest

from focalnet_jax.data.tfds_source import TfdsSource
from focalnet_jax.errors import UserError
from tests.data.layouts import write_folder, write_parquet
from tests.data.pictures import picture
from tests.data.preparing import in_process, prepared, refused, write_tar  # noqa: F401

pytestmark = pytest.mark.usefixtures("in_process")
REFUSED = "cannot be stored, because it is empty, contains a line break, or begins or ends with white space"


@pytest.mark.parametrize("name", [" ", "a\nb", "\r", "cat ", "\u2028", "a\x85b", "a\x0bb", "\u3000"])
def test_class_folders_with_names_that_cannot_be_stored_are_refused(name, tmp_path):
    files = {f"{folder}/{folder}.jpg": picture(n) for n, folder in enumerate((name, "cat", "dog"))}
    write_folder(tmp_path / "set", files)
    out = ["--out", tmp_path / "out"]
    refused(f"class name {name!r} {REFUSED}", "imagefolder", "--source", tmp_path / "set", *out)
    write_tar(tmp_path / "set.tar", files)
    refused(f"class name {name!r} {REFUSED}", "imagefolder", "--source", tmp_path / "set.tar", *out)
    assert not (tmp_path / "out").exists()


def test_listed_class_names_that_cannot_be_stored_are_refused(tmp_path):
    write_folder(tmp_path / "set", {f"{name}/1.jpg": picture(n) for n, name in enumerate("ab")})
    (tmp_path / "names.json").write_text(json.dumps(["a", "b\nc", "b"]))
    arguments = ["--source", tmp_path / "set", "--classes", tmp_path / "names.json", "--out", tmp_path / "out"]
    refused(f"class name 'b\\nc' {REFUSED}", "imagefolder", *arguments)
    rows = [(f"{n}.jpg", picture(n), n) for n in range(3)]
    path = write_parquet(tmp_path / "train.parquet", rows, ["", "a", "b"])
    refused(f"class name '' {REFUSED}", "parquet", "--source", path, "--out", tmp_path / "out")


def test_names_that_differ_only_in_unicode_normalisation_are_refused_in_all_splits(tmp_path):
    name = {form: unicodedata.normalize(form, "caf\xe9") for form in ("NFC", "NFD")}
    out = ["--out", tmp_path / "out"]
    files = {f"train/{name['NFC']}/1.jpg": picture(0), "train/tea/1.jpg": picture(1)}
    write_folder(tmp_path / "set", files | {f"val/{name['NFD']}/1.jpg": picture(2), "val/tea/1.jpg": picture(3)})
    refused("differ only in their Unicode form", "imagefolder", "--source", tmp_path / "set", *out)
    (tmp_path / "names.txt").write_text(f"{name['NFD']}\ntea\n")
    write_folder(tmp_path / "one", files)
    arguments = ["--source", tmp_path / "one", "--classes", tmp_path / "names.txt"]
    refused("differ only in their Unicode form", "imagefolder", *arguments, *out)
    shutil.move(tmp_path / "set/val" / name["NFD"], tmp_path / "set/val" / name["NFC"])
    _, found = prepared(tmp_path / "out", "imagefolder", "--source", tmp_path / "set")
    assert found == {split: {name["NFC"]: 1, "tea": 1} for split in ("train", "val")}


def test_a_data_set_that_lost_a_class_name_when_it_was_stored_is_refused(tmp_path):
    write_folder(tmp_path / "set", {f"{name}/1.jpg": picture(n) for n, name in enumerate("abc")})
    prepared(tmp_path / "out", "imagefolder", "--source", tmp_path / "set")
    assert TfdsSource(str(tmp_path / "out"), "train").class_names == ("a", "b", "c")
    (labels,) = tmp_path.glob("out/images/1.0.0/label.labels.txt")
    labels.write_text(" \nb\nc\n")  # as stored by earlier versions for a first class named " "
    with pytest.raises(UserError, match=r"3 classes.* but .*2 names"):
        TfdsSource(str(tmp_path / "out"), "train")
