"""ImageNet-1K becomes the same data set from every layout, and no class is guessed."""

import gzip
import re
import shutil
import struct
import zlib

import pytest

from focalnet_jax.data.prepare.__main__ import main
from tests.data import layouts
from tests.data.layouts import (
    IDS,
    NUMBERS,
    SYNSETS,
    meta_mat,
    pack,
    samples,
    solution,
    write_folder,
    write_parquet,
    write_train,
    write_val,
)
from tests.data.preparing import contents, in_process, prepared, refused, write_tar  # noqa: F401

pytestmark = pytest.mark.usefixtures("in_process")
THREE = dict.fromkeys(SYNSETS, 2)


@pytest.mark.parametrize(
    "layout",
    [
        layouts.kaggle, layouts.devkit, layouts.class_folders, layouts.hub_tars, layouts.webdataset, layouts.hub_parquet
    ],
)  # fmt: skip
def test_every_layout_is_the_same_data_set(layout, expected, tmp_path):
    card, _ = prepared(tmp_path / "out", "imagenet1k", "--source", layout(tmp_path / "set"))
    assert card["fingerprint"] == expected["fingerprint"]
    assert card["splits"] == expected["splits"]
    assert card["classes"] == expected["classes"]
    assert card["rejected"] == 1  # the damaged image
    has_tests = layout in (layouts.kaggle, layouts.hub_tars, layouts.hub_parquet)
    assert card["left_out"].get("test images without labels", 0) == 2 * has_tests


@pytest.mark.parametrize(
    "layout",
    [
        layouts.kaggle, layouts.kaggle_tars, layouts.devkit, layouts.class_folders, layouts.hub_tars,
        layouts.webdataset, layouts.hub_parquet,
    ],
)  # fmt: skip
def test_a_small_set_may_have_any_classes_under_the_names_of_imagenets_files(layout, tmp_path, monkeypatch, capsys):
    """For example, a small test set in which the first validation image does not have ImageNet's class."""
    others = ("n01440764", "n01443537", "n01484850")
    monkeypatch.setattr(layouts, "SYNSETS", others)
    monkeypatch.setattr(layouts, "NUMBERS", dict(zip(others, range(3), strict=True)))
    monkeypatch.setattr(layouts, "IDS", dict(zip(others, IDS.values(), strict=True)))
    _, found = prepared(tmp_path / "out", "imagenet1k", "--source", layout(tmp_path / "set"))
    assert found == {"train": dict(zip(others, (6, 4, 4), strict=True)), "val": dict.fromkeys(others, 2)}
    assert "has class n01484850, but shows a sea snake, n01751748; if" in capsys.readouterr().out


@pytest.mark.parametrize("below", ["", "ILSVRC", "ILSVRC/Data", "ILSVRC/Data/CLS-LOC"])
def test_kaggles_folder_is_found_from_any_of_its_folders(below, expected, tmp_path):
    source = layouts.kaggle(tmp_path / "set") / below
    card, _ = prepared(tmp_path / "out", "imagenet1k", "--source", source)
    assert card["fingerprint"] == expected["fingerprint"]


def write_labels(folder):
    """Writes the labels of the validation images in every format."""
    _, synsets = write_val()
    names = [f"ILSVRC2012_val_{number:08d}.JPEG" for number in range(1, len(synsets) + 1)]
    solution(folder, synsets)
    forms = {
        "synsets.txt": "\n".join(synsets),
        "caffe_val.txt": "\n".join(f"{name} {NUMBERS[s]}" for name, s in zip(names, synsets, strict=True)),
        "named.csv": "\n".join(f"{name},{s}" for name, s in zip(names, synsets, strict=True)),
        "windows.txt": "\ufeff" + "\r\n".join(synsets) + "\r\n",
        "kit/data/ILSVRC2012_validation_ground_truth.txt": "\n".join(str(IDS[synset]) for synset in synsets),
    }
    write_folder(folder, {name: text.encode() for name, text in forms.items()})
    write_folder(folder / "kit", {"data/meta.mat": meta_mat()})
    return [folder / "LOC_val_solution.csv", *(folder / name for name in forms), folder / "kit"]


def test_the_list_of_labels_may_have_any_of_its_forms(expected, tmp_path):
    source = layouts.kaggle(tmp_path / "set")
    (source / "LOC_val_solution.csv").unlink()
    refused("give --val-labels FILE", "imagenet1k", "--source", source, "--out", tmp_path / "none")
    for number, path in enumerate(write_labels(tmp_path / "labels")):
        arguments = ["imagenet1k", "--source", source, "--val-labels", path]
        assert prepared(tmp_path / str(number), *arguments)[0]["fingerprint"] == expected["fingerprint"], path


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("449\n445\n442\n", "meta.mat"),  # the devkit's numbers, without its meta.mat
        ("n01751748\n" * 3, "3 images that the label list lacks"),
        ("".join(f"ILSVRC2012_val_{n:08d}.JPEG {1000}\n" for n in range(1, 7)), "the order of its numbers is unknown"),
        ("tench\n" * 6, "got 'ILSVRC2012_val_00000001 tench'"),
        ("".join(f"ILSVRC2012_val_{n:08d}.JPEG {n}\n" for n in range(1, 7)), "contains image numbers"),
        ("ILSVRC2012_val_00000001.JPEG 66\nILSVRC2012_val_00000002.JPEG 971\n", "4 images that the label list lacks"),
        ("a.JPEG n01440764\na.JPEG n02102040\n", "two classes for a, n01440764 and n02102040"),
        ("a.JPEG 0\na.JPEG 217\n", "two classes for a, 0 and 217"),
        ("", "is empty"),
    ],
)
def test_labels_that_may_mean_something_else_are_refused(text, told, tmp_path):
    source = layouts.kaggle(tmp_path / "set")
    (tmp_path / "labels.txt").write_text(text)
    arguments = ["--source", source, "--val-labels", tmp_path / "labels.txt", "--out", tmp_path / "out"]
    refused(told, "imagenet1k", *arguments)


def test_a_devkit_that_unpacks_without_end_or_holds_none_is_refused(tmp_path):
    source = layouts.devkit(tmp_path / "set")
    out = ["--out", tmp_path / "out"]
    kit = source / "ILSVRC2012_devkit_t12.tar.gz"
    truth = {"data/ILSVRC2012_validation_ground_truth.txt": b"449\n" * 6}
    header = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM"
    packed = zlib.compress(bytes(1 << 27))
    bomb = header + struct.pack("<II", 15, len(packed)) + packed
    for content, told in (
        (pack(truth | {"data/meta.mat": bomb}, "w:gz"), "unpacks to more than"),
        (pack(truth | {"data/meta.mat": b"damaged" * 99}, "w:gz"), "is damaged"),
        (pack({"../data/meta.mat": b"x"}, "w:gz"), "leads outside of the archive"),
        (pack({"readme": b"x"}, "w:gz"), "expected the devkit"),
        (pack(truth, "w:gz")[:-30], "damaged"),
    ):
        kit.write_bytes(content)
        refused(told, "imagenet1k", "--source", source, *out)


def test_names_labels_and_folders_that_contradict_each_other_are_rejected_by_name(tmp_path):
    train, (val, synsets) = write_train(tmp_path), write_val()
    labelled = {name: (content, NUMBERS[name[:9]]) for name, content in train.items()}
    wrong = next(name for name in labelled if name.startswith(SYNSETS[1]))
    labelled[wrong] = (labelled[wrong][0], 65)
    write_tar(tmp_path / "set" / "imagenet1k-train-0000.tar", samples(labelled))
    names = [name.replace(".JPEG", f"_{synset}.JPEG") for name, synset in zip(val, synsets, strict=True)]
    write_tar(tmp_path / "set" / "val_images.tar", dict(zip(names, val.values(), strict=True)))
    solution(tmp_path, [SYNSETS[2], *[SYNSETS[0]] * 5])
    arguments = ["--source", tmp_path / "set"]
    card, found = prepared(tmp_path / "out", "imagenet1k", *arguments)
    assert found == {"train": {SYNSETS[0]: 6, SYNSETS[1]: 3, SYNSETS[2]: 4}, "val": THREE}
    assert card["rejected"] == 2
    card, found = prepared(
        tmp_path / "listed", "imagenet1k", *arguments, "--val-labels", tmp_path / "LOC_val_solution.csv"
    )
    assert found["val"] == {SYNSETS[0]: 2, SYNSETS[2]: 1}
    assert card["rejected"] == 5


def test_a_list_beside_validation_images_that_lie_in_folders_is_asked_too(expected, tmp_path):
    source = layouts.class_folders(tmp_path / "set")
    solution(source, write_val()[1])
    card, _ = prepared(tmp_path / "out", "imagenet1k", "--source", source)
    assert card["fingerprint"] == expected["fingerprint"]
    moved = next((source / "val" / SYNSETS[0]).iterdir())
    moved.rename(source / "val" / SYNSETS[1] / moved.name)
    card, found = prepared(tmp_path / "moved", "imagenet1k", "--source", source)
    assert found["val"] == THREE | {SYNSETS[0]: 1}
    assert card["rejected"] == 2
    (source / "LOC_val_solution.csv").write_text("this is no list")
    _, found = prepared(tmp_path / "damaged", "imagenet1k", "--source", source)
    assert found["val"] == {SYNSETS[0]: 1, SYNSETS[1]: 3, SYNSETS[2]: 2}


def test_a_folder_beside_the_tars_that_is_not_read_is_told(expected, tmp_path, capsys):
    source = layouts.kaggle_tars(tmp_path / "set")
    write_folder(source / "ILSVRC", {"readme.txt": b"x"})
    card, _ = prepared(tmp_path / "out", "imagenet1k", "--source", source)
    assert card["fingerprint"] == expected["fingerprint"]
    assert f"not read: {source / 'ILSVRC'}\n" in capsys.readouterr().out


def test_without_a_validation_image_that_can_be_used_nothing_is_prepared(tmp_path):
    source = layouts.class_folders(tmp_path / "set")
    first, *others = write_val()[1]
    solution(source, [first, *(SYNSETS[(SYNSETS.index(synset) + 1) % 3] for synset in others)])
    next((source / "val" / first).glob("*00000001.JPEG")).unlink()
    out = ["--out", tmp_path / "out"]
    refused("the labels of val contradict the names of 5 of the 5", "imagenet1k", "--source", source, *out)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("layout", [layouts.hub_parquet, layouts.webdataset])
def test_numbered_files_that_are_missing_are_told(layout, tmp_path, capsys):
    source = layout(tmp_path / "set")
    prepared(tmp_path / "whole", "imagenet1k", "--source", source)
    assert "are present; missing" not in capsys.readouterr().out
    first, second = sorted(source.rglob("*train*"))
    if layout is layouts.hub_parquet:
        first.unlink()
    else:
        second.rename(second.with_name(second.name.replace("1.tar", "3.tar")))
    assert main(["imagenet1k", "--source", str(source), "--out", str(tmp_path / "out"), "--processes", "1"]) == 0
    told = {layouts.hub_parquet: "1 of 2 files of .*; missing: 0", layouts.webdataset: "2 of 4 .*missing: 1, 2"}
    assert re.search(told[layout], capsys.readouterr().out)


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (
            ["train_images_0.tar.gz", "train_images_2.tar.gz", "val.tar"],
            "2 of 3 files of .*train_images_.*missing: 1\n",
        ),
        (["train.tar", "x-val-00.tar", "x-val-02.tar"], "2 of 3 files of .*x-val-.*missing: 1\n"),
        (["train-00000-of-00002-0a1b2c3d4e5f6789.parquet", "val.parquet"], "1 of 2 files of .*missing: 1\n"),
        (["train_000.parquet", "train_002.parquet", "val.parquet"], "2 of 3 files of .*missing: 1\n"),
        (["train_0.parquet", "train_2.parquet", "val.parquet"], "2 of 3 files of .*missing: 1\n"),
        (["train-part0-of-3.parquet", "train-part2-of-3.parquet", "val.parquet"], "2 of 3 files of .*missing: 1\n"),
    ],
)  # fmt: skip
def test_missing_files_are_reported_however_they_are_numbered(names, told, tmp_path, capsys):
    train, (val, synsets) = write_train(tmp_path), write_val()
    images = {"train": [(f"{n.split('/')[1][:-5]}_{n[:9]}.JPEG", c) for n, c in train.items()]}
    images["val"] = [(f"{n[:-5]}_{s}.JPEG", c) for s, (n, c) in zip(synsets, val.items(), strict=True)]
    for split, held in images.items():
        of = [name for name in names if split in name]
        for number, name in enumerate(of):
            files = dict(held[number :: len(of)])
            path = tmp_path / "set" / name
            if name.endswith(".parquet"):
                write_parquet(path, [(n, c, NUMBERS[n[-14:-5]]) for n, c in files.items()])
            else:
                write_folder(path.parent, {name: pack(files, "w:gz" if name.endswith("gz") else "w")})
    prepared(tmp_path / "out", "imagenet1k", "--source", tmp_path / "set")
    assert re.search(told, capsys.readouterr().out)


def test_a_split_that_is_there_twice_or_not_at_all_is_refused(tmp_path):
    out = ["--out", tmp_path / "out"]
    source = layouts.kaggle_tars(tmp_path / "twice")
    write_folder(source / "train", write_train(source))
    refused("contains train more than once, as folders and as tars of synsets", "imagenet1k", "--source", source, *out)
    (source / "ILSVRC2012_img_val.tar").unlink()
    refused("contains no images of val", "imagenet1k", "--source", source, *out)
    (tmp_path / "empty").mkdir()
    refused("contains no images of train and val", "imagenet1k", "--source", tmp_path / "empty", *out)


def test_given_as_the_kind_imagefolder_it_is_refused_or_read_rightly(tmp_path):
    out = ["--out", tmp_path / "out"]
    source = layouts.kaggle(tmp_path / "kaggle") / "ILSVRC" / "Data" / "CLS-LOC"
    refused("2 images of test, such as", "imagefolder", "--source", source, *out)
    shutil.rmtree(source / "test")
    refused("6 images of val, such as", "imagefolder", "--source", source, *out)
    refused("use the kind imagenet1k", "imagefolder", "--source", source / "val", *out)
    source = layouts.hub_tars(tmp_path / "tars") / "data"
    refused("expected one split with images in class folders", "imagefolder", "--source", source, *out)
    refused("are not in class folders", "imagefolder", "--source", source / "val_images.tar.gz", *out)
    source = layouts.hub_parquet(tmp_path / "parquet")
    refused("Parquet files with the kind parquet", "imagefolder", "--source", source, *out)
    refused("with the kind parquet", "imagefolder", "--source", next(source.rglob("*.parquet")), *out)
    source = layouts.webdataset(tmp_path / "shards")
    refused("with the kind webdataset", "imagefolder", "--source", source, *out)
    refused("with the kind webdataset", "imagenet22k", "--source", source, *out)
    refused("with the kind webdataset", "imagefolder", "--source", next(source.iterdir()), *out)
    source = layouts.kaggle_tars(tmp_path / "own")
    refused("6 images of val, such as", "imagefolder", "--source", source, *out)
    _, found = prepared(tmp_path / "train", "imagefolder", "--source", source / "ILSVRC2012_img_train.tar")
    assert found == {"train": {SYNSETS[0]: 6, SYNSETS[1]: 4, SYNSETS[2]: 4}}


def test_an_image_that_is_there_twice_is_refused(tmp_path):
    source = layouts.hub_tars(tmp_path / "set") / "data"
    packed = gzip.decompress((source / "train_images_1.tar.gz").read_bytes())
    (source / "train_images_2.tar").write_bytes(packed)
    refused("occur more than once", "imagenet1k", "--source", source, "--out", tmp_path / "out")
    (source / "train_images_2.tar").rename(source / "train_images_1.tar")
    refused("occur more than once", "imagenet1k", "--source", source, "--out", tmp_path / "out")
    source = layouts.hub_parquet(tmp_path / "rows")
    name, content = next(iter(write_val()[0].items()))
    rows = [(name, content, label) for label in (0, 2)]
    write_parquet(source / "data" / "validation-00000-of-00001.parquet", rows)
    refused(f"1 images occur more than once, such as {name}", "imagenet1k", "--source", source, "--out", tmp_path)
