"""The columns of Parquet files are found by type and name, and give one label per row."""

import datetime
import sys

import pytest

from tests.data.layouts import table, write_parquet
from tests.data.pictures import picture
from tests.data.preparing import contents, in_process, killed, prepare, prepared, refused, write_tar  # noqa: F401

pytestmark = pytest.mark.usefixtures("in_process")


def test_columns_are_found_by_what_they_hold_or_named(tmp_path):
    images, out = [picture(n) for n in range(3)], ["--out", tmp_path / "out"]
    path = table(tmp_path / "train.parquet", id=[7, 8, 9], jpg=images, cls=["a", "b", "a"], caption=["x", "y", "z"])
    _, found = prepared(tmp_path / "one", "parquet", "--source", path)
    assert found == {"train": {"a": 2, "b": 1}}
    names = set(contents(tmp_path / "one" / "images" / "1.0.0", "train")[0])
    assert names == {"a/train/00000000.jpg", "b/train/00000001.jpg", "a/train/00000002.jpg"}
    path = table(tmp_path / "cifar.parquet", img=images, fine_label=[0, 1, 2], coarse_label=[0, 0, 1])
    told = "several columns fine_label, coarse_label may contain labels; give --label-column NAME"
    refused(told, "parquet", "--source", path, *out)
    refused("has no column colour", "parquet", "--source", path, "--label-column", "colour", *out)
    _, found = prepared(tmp_path / "two", "parquet", "--source", path, "--label-column", "coarse_label")
    assert found == {"train": {"0": 2, "1": 1}}
    path = table(tmp_path / "two_images.parquet", left=images, right=images, label=[0, 1, 0])
    refused("several columns may contain images", "parquet", "--source", path, *out)
    _, found = prepared(tmp_path / "three", "parquet", "--source", path, "--image-column", "right")
    assert found == {"train": {"0": 2, "1": 1}}
    path = table(tmp_path / "paths.parquet", image=["a.jpg", "b.jpg", "c.jpg"], label=[0, 1, 0])
    refused("no column may contain images", "parquet", "--source", path, *out)
    path = table(tmp_path / "empty.parquet", image=[{"bytes": None, "path": "a.jpg"}] * 3, label=[0, 1, 0])
    refused("no image of a known class", "parquet", "--source", path, *out)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([0.0, 2.0, float("nan")], {"0": 1, "2": 1}),
        ([0.0, 2.0, 1.5], {"0": 1, "2": 1}),
        ([True, False, True], {"false": 1, "true": 2}),
        ([[0], [1], [0, 1]], "has type list<"),
        ([b"cat", b"dog", b"cat"], "column kind has type binary; expected one label per row, a number or string"),
        ([datetime.date(2020, 1, 1 + day) for day in range(3)], "has type date32"),
        ([{"id": 1}, {"id": 2}, {"id": 1}], "has type struct<"),
    ],
)
def test_a_named_column_holds_a_label_for_each_row(labels, expected, tmp_path):
    path = table(tmp_path / "train.parquet", image=[picture(n) for n in range(3)], kind=labels)
    arguments = ["--source", path, "--label-column", "kind"]
    if isinstance(expected, str):
        refused(expected, "parquet", *arguments, "--out", tmp_path / "out")
    else:
        assert prepared(tmp_path / "out", "parquet", *arguments)[1] == {"train": expected}


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([0.0, 1.0], "column label has type double; expected integers or strings; give --label-column label to use it"),
        ([True, False], "column label has type bool; expected integers or strings; give --label-column label to use"),
        ([[0], [1]], "; expected integers or strings; give --label-column NAME, one of image, label"),
    ],
)
def test_the_error_names_the_type_of_a_column_of_unusual_labels(labels, expected, tmp_path):
    path = table(tmp_path / "train.parquet", image=[picture(0), picture(1)], label=labels)
    refused(expected, "parquet", "--source", path, "--out", tmp_path / "out")


def test_a_named_column_holds_images(tmp_path):
    path = table(tmp_path / "train.parquet", image=[picture(0)], where=["a.jpg"], label=[0])
    arguments = ["--source", path, "--image-column", "where", "--out", tmp_path / "out"]
    refused("column where has type string; expected encoded images", "parquet", *arguments)


@pytest.mark.parametrize(
    "image",
    [
        {"bytes": "text", "path": "a.jpg"},
        {"bytes": [1, 2], "path": "a.jpg"},
        {"bytes": picture(0), "path": 7},
        {"bytes": {"bytes": picture(0)}, "path": "a.jpg"},
    ],
)
def test_a_struct_of_other_types_holds_no_images(image, tmp_path):
    path = table(tmp_path / "train.parquet", image=[image] * 2, label=[0, 1])
    out = ["--source", path, "--out", tmp_path / "out"]
    refused("no column may contain images", "parquet", *out)
    refused("expected encoded images, or a struct with bytes", "parquet", *out, "--image-column", "image")


def test_a_column_that_is_not_utf8_is_damaged(tmp_path):
    import pyarrow

    text = pyarrow.Array.from_buffers(pyarrow.string(), 2, pyarrow.array([b"cat", b"d\xffg"]).buffers())
    path = table(tmp_path / "train.parquet", image=[picture(0), picture(1)], label=text)
    refused("is damaged: 'utf-8' codec can't decode", "parquet", "--source", path, "--out", tmp_path / "out")


def test_rows_whose_path_has_no_file_name_are_named_by_number(tmp_path):
    for number, content in enumerate((picture(1), b"no image")):
        rows = [(path, content, 0) for path in (".", "..", "/", "a/..")]
        write_parquet(tmp_path / "set" / f"train-{number}.parquet", rows)
    card, found = prepared(tmp_path / "out", "parquet", "--source", tmp_path / "set")
    assert (found, card["rejected"]) == ({"train": {"0": 4}}, 4)


def test_rows_without_a_label_an_image_or_a_name_of_their_own_are_named(tmp_path):
    rows = [("same.jpg", picture(0), 0), ("same.jpg", picture(1), 1), (None, picture(2), None), ("x", b"", 1)]
    rows += [("../../y.png", picture(3, "PNG"), -1), ("/etc/z.png", picture(4, "PNG"), 1)]
    path = write_parquet(tmp_path / "train.parquet", rows)
    card, found = prepared(tmp_path / "out", "parquet", "--source", path)
    assert found == {"train": {"0": 1, "1": 2}}
    assert (card["files"], card["rejected"]) == (6, 3)
    names = set(contents(tmp_path / "out" / "images" / "1.0.0", "train")[0])
    assert names == {"0/train/00000000.jpg", "1/train/00000001.jpg", "1/etc/z.png"}


def test_without_pyarrow_one_line_says_what_to_install(tmp_path, monkeypatch):
    path = write_parquet(tmp_path / "train.parquet", [("a.jpg", picture(0), 0)])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    refused("pip install 'focalnet_jax[parquet]'", "parquet", "--source", path, "--out", tmp_path / "out")


def test_damaged_and_bloated_parquet_is_refused(tmp_path, monkeypatch):
    rows = [(f"{n}.jpg", picture(n), n % 2) for n in range(40)]
    path, out = write_parquet(tmp_path / "train.parquet", rows), ["--out", tmp_path / "out"]
    whole = path.read_bytes()
    for content in (whole[:-1], whole[: len(whole) // 2], whole[:300] + bytes(500) + whole[800:]):
        path.write_bytes(content)
        refused("damaged", "parquet", "--source", path, *out)
    path.write_bytes(whole)
    monkeypatch.setattr("focalnet_jax.data.prepare.rows.GROWTH_BYTES", 0)
    monkeypatch.setattr("focalnet_jax.data.prepare.rows.GROWTH", 0)
    refused("unpacks to", "parquet", "--source", path, *out)


@pytest.mark.parametrize("name", ["split", "Subset", "partition"])
def test_a_column_of_splits_is_the_split_of_each_row(name, tmp_path, capsys):
    splits = ["train", "validation", "test", "train", "val", "Test"]
    columns = {"image": [picture(n) for n in range(6)], "label": [0, 1, 0, 1, 0, 1], name: splits}
    path = table(tmp_path / "data.parquet", **columns)
    _, found = prepared(tmp_path / "out", "parquet", "--source", path)
    assert found == {"train": {"0": 1, "1": 1}, "val": {"0": 1, "1": 1}, "test": {"0": 1, "1": 1}}
    path.rename(tmp_path / "val.parquet")
    told = "val.parquet is named after val, but its split column contains Test, test, train, val, validation"
    refused(told, "parquet", "--source", tmp_path / "val.parquet", "--out", tmp_path / "other")


def test_a_column_named_split_with_other_values_is_not_read(tmp_path):
    columns = {"image": [picture(n) for n in range(3)], "label": [0, 1, 0], "split": ["train", "left", "test"]}
    _, found = prepared(tmp_path / "out", "parquet", "--source", table(tmp_path / "data.parquet", **columns))
    assert found == {"train": {"0": 2, "1": 1}}
