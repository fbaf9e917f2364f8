"""ImageNet-1K becomes the same data set whoever gave it, and nothing says a class by accident."""

import gzip
import re
import shutil
import struct
import tarfile
import zlib

import pytest

from focalnet_jax.data.class_lists import class_names
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


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The card of the data set from its own tars."""
    folder = tmp_path_factory.mktemp("expected")
    card, _ = prepared(folder / "out", "imagenet1k", "--source", layouts.kaggle_tars(folder / "tars"))
    train, val = (contents(folder / "out" / "imagenet2012" / "1.0.0", split) for split in ("train", "val"))
    assert train[1] == {SYNSETS[0]: 6, SYNSETS[1]: 4, SYNSETS[2]: 4}
    assert val[1] == THREE
    return card


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
    assert card["rejected"] == 1  # the damaged one
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
    """Such as a set made for a test, whose first validation image is not of ImageNet's class."""
    others = ("n01440764", "n01443537", "n01484850")
    monkeypatch.setattr(layouts, "SYNSETS", others)
    monkeypatch.setattr(layouts, "NUMBERS", dict(zip(others, range(3), strict=True)))
    monkeypatch.setattr(layouts, "IDS", dict(zip(others, IDS.values(), strict=True)))
    _, found = prepared(tmp_path / "out", "imagenet1k", "--source", layout(tmp_path / "set"))
    assert found == {"train": dict(zip(others, (6, 4, 4), strict=True)), "val": dict.fromkeys(others, 2)}
    assert "would be of class n01484850, not of n01751748, a sea snake: if" in capsys.readouterr().out


@pytest.mark.parametrize("below", ["", "ILSVRC", "ILSVRC/Data", "ILSVRC/Data/CLS-LOC"])
def test_kaggles_folder_is_found_from_any_of_its_folders(below, expected, tmp_path):
    source = layouts.kaggle(tmp_path / "set") / below
    card, _ = prepared(tmp_path / "out", "imagenet1k", "--source", source)
    assert card["fingerprint"] == expected["fingerprint"]


def write_labels(folder):
    """The labels of the validation images in every form."""
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
        ("449\n445\n442\n", "meta.mat"),  # the devkit's numbers without its table
        ("n01751748\n" * 3, "3 images that the label list lacks"),
        ("".join(f"ILSVRC2012_val_{n:08d}.JPEG {1000}\n" for n in range(1, 7)), "so their order is unknown"),
        ("tench\n" * 6, "got 'ILSVRC2012_val_00000001 tench'"),
        ("".join(f"ILSVRC2012_val_{n:08d}.JPEG {n}\n" for n in range(1, 7)), "its numbers count images"),
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
        (pack({"../data/meta.mat": b"x"}, "w:gz"), "leads outside of it"),
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
    refused("the labels of val contradict the names of 5 of its 5", "imagenet1k", "--source", source, *out)
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
    refused("holds train more than once, as folders and as tars of synsets", "imagenet1k", "--source", source, *out)
    (source / "ILSVRC2012_img_val.tar").unlink()
    refused("holds no images of val", "imagenet1k", "--source", source, *out)
    (tmp_path / "empty").mkdir()
    refused("holds no images of train and val", "imagenet1k", "--source", tmp_path / "empty", *out)


def test_given_as_the_kind_imagefolder_it_is_refused_or_read_rightly(tmp_path):
    out = ["--out", tmp_path / "out"]
    source = layouts.kaggle(tmp_path / "kaggle") / "ILSVRC" / "Data" / "CLS-LOC"
    refused("the 2 images of test are not in class folders", "imagefolder", "--source", source, *out)
    shutil.rmtree(source / "test")
    refused("the 6 images of val are not in class folders", "imagefolder", "--source", source, *out)
    refused("use the kind imagenet1k", "imagefolder", "--source", source / "val", *out)
    source = layouts.hub_tars(tmp_path / "tars") / "data"
    refused("is not a class; try the kind imagenet1k", "imagefolder", "--source", source, *out)
    refused("are not in class folders", "imagefolder", "--source", source / "val_images.tar.gz", *out)
    source = layouts.hub_parquet(tmp_path / "parquet")
    refused("Parquet files with the kind parquet", "imagefolder", "--source", source, *out)
    refused("with the kind parquet", "imagefolder", "--source", next(source.rglob("*.parquet")), *out)
    source = layouts.webdataset(tmp_path / "shards")
    refused("with the kind webdataset", "imagefolder", "--source", source, *out)
    refused("with the kind webdataset", "imagenet22k", "--source", source, *out)
    refused("with the kind webdataset", "imagefolder", "--source", next(source.iterdir()), *out)
    source = layouts.kaggle_tars(tmp_path / "own")
    refused("the 6 images of val are not in class folders", "imagefolder", "--source", source, *out)
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


def write_split_folders(root):
    """Archives beside each other, as from the authors' page, with what is no part of train, val and test."""
    source = layouts.kaggle_tars(root)
    (source / "LOC_val_solution.csv").unlink()
    (source / "imagenet_2012_validation_synset_labels.txt").write_text("\n".join(write_val()[1]))
    write_tar(source / "ILSVRC2012_img_test_v10102019.tar", {"test/ILSVRC2012_test_00000001.JPEG": b"x"})
    write_tar(source / "ILSVRC2012_img_train_t3.tar", {"n02085620.tar": b"x"})
    write_tar(source / "ILSVRC2012_bbox_train_v2.tar", {"n01440764/x.xml": b"x"})
    (source / "competition.zip").write_bytes(b"PK\3\4")
    return source


def write_unpacked_once(root):
    """The outer tars unpacked, those of the synsets not."""
    source = layouts.kaggle_tars(root)
    for split in ("train", "val"):
        with tarfile.open(source / f"ILSVRC2012_img_{split}.tar") as archive:
            archive.extractall(source / f"ILSVRC2012_img_{split}", filter="data")
        (source / f"ILSVRC2012_img_{split}.tar").unlink()
    return source


def write_one_tar(root):
    """All of it in one tar."""
    source = layouts.class_folders(root / "unpacked")
    with tarfile.open(root / "imagenet.tar", "w") as archive:
        archive.add(source, "imagenet")
    return root / "imagenet.tar"


def write_named_flat(root):
    """Both splits flat; the names of train's files say the classes."""
    train, (val, synsets) = write_train(root), write_val()
    write_folder(root / "ILSVRC2012_train", {name.split("/")[1]: content for name, content in train.items()})
    write_folder(root / "ILSVRC2012_val", val)
    solution(root, synsets)
    return root


def write_generic_shards(root):
    """Shards whose keys say nothing; the .json say the files."""
    source = layouts.webdataset(root)
    for path in list(source.iterdir()):
        with tarfile.open(path) as archive:
            files = {member.name: archive.extractfile(member).read() for member in archive}
        keys = {key: f"{place:06d}" for place, key in enumerate({name.partition(".")[0]: 0 for name in files})}
        files = {f"{keys[n.partition('.')[0]]}.{n.partition('.')[2]}": content for n, content in files.items()}
        path.unlink()
        split = "train" if "train" in path.name else "val"
        (source / split).mkdir(exist_ok=True)
        (source / split / f"{path.stem[-4:]}.tgz").write_bytes(pack(files, "w:gz"))
    return source


def write_lemmas(root):
    """Parquet with names in place of numbers, and files that say the synset of none."""
    train, (val, synsets) = write_train(root), write_val()
    named = dict(zip(SYNSETS, ("tench", "goldfish, Carassius auratus", "sea snake"), strict=True))
    rows = [(name.split("/")[1].replace(".JPEG", ".jpg"), content, named[name[:9]]) for name, content in train.items()]
    write_parquet(root / "train.parquet", rows)
    rows = [(name, content, named[synset]) for synset, (name, content) in zip(synsets, val.items(), strict=True)]
    write_parquet(root / "validation.parquet", rows)
    return root


@pytest.mark.parametrize(
    "layout",
    [
        write_split_folders, write_unpacked_once, write_one_tar, write_named_flat, write_generic_shards, write_lemmas
    ],
)  # fmt: skip
def test_less_usual_layouts_are_the_same_data_set_too(layout, expected, tmp_path):
    card, _ = prepared(tmp_path / "out", "imagenet1k", "--source", layout(tmp_path / "set"))
    assert card["fingerprint"] == expected["fingerprint"]
    assert card["splits"] == expected["splits"]


def test_the_splits_may_be_given_one_by_one(expected, tmp_path):
    source = layouts.class_folders(tmp_path / "set")
    card, _ = prepared(tmp_path / "out", "imagenet1k", "--source", source / "val", source / "train")
    assert card["fingerprint"] == expected["fingerprint"]
    source = layouts.hub_tars(tmp_path / "tars") / "data"
    card, _ = prepared(tmp_path / "again", "imagenet1k", "--source", *sorted(source.iterdir()))
    assert card["fingerprint"] == expected["fingerprint"]


def test_the_hubs_parquet_as_the_kind_parquet_has_imagenets_words_each_once(tmp_path):
    source = layouts.hub_parquet(tmp_path / "set")
    card, found = prepared(tmp_path / "out", "parquet", "--source", source)
    assert list(card["classes"]) == class_names(1000)
    assert found["val"] == {class_names(1000)[NUMBERS[synset]]: 2 for synset in SYNSETS}
    write_parquet(tmp_path / "train.parquet", [("1.jpg", next(iter(write_val()[0].values())), 0)], ["cat", "cat"])
    out = ["--out", tmp_path / "none"]
    refused("several classes have the name cat", "parquet", "--source", tmp_path / "train.parquet", *out)


def hub_named(images, synsets):
    """Names of files as on the Hugging Face hub."""
    return {f"{name[:-5]}_{synset}.JPEG": c for synset, (name, c) in zip(synsets, images.items(), strict=True)}


@pytest.mark.parametrize("folders", [True, False])
def test_in_a_tar_of_all_images_the_names_of_validation_images_determine_their_split(folders, expected, tmp_path):
    val, synsets = write_val()
    named = (
        {f"{s}/{n}": c for s, (n, c) in zip(synsets, val.items(), strict=True)} if folders else hub_named(val, synsets)
    )
    train = {f"imagenet/train/{name}": content for name, content in write_train(tmp_path).items()}
    path = write_tar(tmp_path / "imagenet.tar", train | {f"imagenet/val_images/{name}": c for name, c in named.items()})
    assert prepared(tmp_path / "out", "imagenet1k", "--source", path)[0]["fingerprint"] == expected["fingerprint"]


def test_a_tar_of_all_without_a_split_val_or_with_more_than_splits_is_refused(tmp_path):
    train = {f"imagenet/train/{name}": content for name, content in write_train(tmp_path).items()}
    path = write_tar(tmp_path / "imagenet.tar", train)
    out = ["--out", tmp_path / "out"]
    refused(
        "imagenet.tar holds no images of val: give them too, or --held-out SHARE", "imagenet1k", "--source", path, *out
    )
    _, found = prepared(tmp_path / "held", "imagenet1k", "--source", path, "--held-out", "0.3")
    assert sum(found["val"].values()) + sum(found["train"].values()) == 14
    more = {f"imagenet/more/n01440764/{number}.JPEG": next(iter(write_val()[0].values())) for number in range(3)}
    val = {f"imagenet/val/n01440764/{number}.JPEG": next(iter(write_val()[0].values())) for number in range(3)}
    path = write_tar(tmp_path / "more.tar", train | val | more)
    refused("imagenet/more/n01440764, which is not a split", "imagenet1k", "--source", path, *out)


def test_validation_images_among_training_images_are_refused(tmp_path):
    out = ["--out", tmp_path / "out"]
    source = layouts.class_folders(tmp_path / "set")
    moved = sorted((source / "val").rglob("*.JPEG"))[0]
    moved.rename(source / "train" / moved.parent.name / moved.name)
    told = f"train holds 1 validation images, such as {moved.name} in {source / 'train' / moved.parent.name}: move them"
    refused(told, "imagenet1k", "--source", source, *out)
    val, synsets = write_val()
    train = {f"imagenet/train/{name}": content for name, content in write_train(tmp_path).items()}
    held = {f"imagenet/val/{name}": content for name, content in hub_named(val, synsets).items()}
    write_tar(tmp_path / "tars" / "train.tar", train | held)
    write_tar(tmp_path / "tars" / "val.tar", hub_named(val, synsets))
    refused("train.tar is named after train but holds val", "imagenet1k", "--source", tmp_path / "tars", *out)


def test_validation_images_next_to_the_folders_of_synsets_belong_to_val(expected, tmp_path):
    val, synsets = write_val()
    named = list(hub_named(val, synsets).items())
    write_folder(tmp_path / "set", write_train(tmp_path) | dict(named[:3]))
    write_folder(tmp_path / "set" / "val", dict(named[3:]))
    card, _ = prepared(tmp_path / "out", "imagenet1k", "--source", tmp_path / "set")
    assert card["fingerprint"] == expected["fingerprint"]


def test_splits_other_than_those_of_imagenet_are_kept(tmp_path, capsys):
    """As in Imagenette, each of whose splits holds both training and validation images."""
    source = layouts.class_folders(tmp_path / "set")
    moved = next((source / "val" / SYNSETS[0]).iterdir())
    moved.rename(source / "train" / SYNSETS[0] / moved.name)
    moved = source / "train" / SYNSETS[1] / f"{SYNSETS[1]}_0.JPEG"
    moved.rename(source / "val" / SYNSETS[1] / moved.name)
    _, found = prepared(tmp_path / "out", "imagenet1k", "--source", source)
    assert found["val"] == {SYNSETS[0]: 1, SYNSETS[1]: 3, SYNSETS[2]: 2}
    assert "note: train holds 1 images named as validation images" in capsys.readouterr().out


def test_kaggles_tar_is_read_whatever_its_name_and_first_files(expected, tmp_path):
    source = layouts.kaggle(tmp_path / "unpacked")
    files = {f"ILSVRC/Annotations/CLS-LOC/val/{number:05d}.xml": b"<x/>" for number in range(600)}
    images = source / "ILSVRC"
    files |= {f"ILSVRC/{p.relative_to(images)}": p.read_bytes() for p in sorted(images.rglob("*.JPEG"))}
    path = tmp_path / "kaggle" / "imagenet_object_localization_patched2019.tar.gz"
    write_folder(path.parent, {path.name: pack(files, "w:gz")})
    solution(path.parent, write_val()[1])
    for number, given in enumerate((path, path.parent)):
        card, _ = prepared(tmp_path / str(number), "imagenet1k", "--source", given)
        assert card["fingerprint"] == expected["fingerprint"]


@pytest.mark.parametrize("name", ["test", "imagenet-train", "val"])
def test_a_folder_is_not_a_split_if_its_tars_are_named_after_splits(name, expected, tmp_path):
    source = layouts.kaggle_tars(tmp_path / name)
    assert prepared(tmp_path / "out", "imagenet1k", "--source", source)[0]["fingerprint"] == expected["fingerprint"]


def test_some_tars_of_synsets_may_be_unpacked(expected, tmp_path):
    train, _ = write_train(tmp_path), layouts.class_folders(tmp_path / "set")
    shutil.rmtree(tmp_path / "set" / "train" / SYNSETS[1])
    names = {name.split("/")[1]: content for name, content in train.items() if name.startswith(SYNSETS[1])}
    write_tar(tmp_path / "set" / "train" / f"{SYNSETS[1]}.tar", names)
    card, _ = prepared(tmp_path / "out", "imagenet1k", "--source", tmp_path / "set")
    assert card["fingerprint"] == expected["fingerprint"]


def test_errors_list_the_folders_that_were_not_read(tmp_path):
    out = ["--out", tmp_path / "out"]
    source = layouts.hub_parquet(tmp_path / "set")
    write_folder(source / "train", write_train(tmp_path))
    refused(f"holds no images of val (not read: {source / 'data'})", "imagenet1k", "--source", source, *out)
    tars = {path.name: path.read_bytes() for path in layouts.kaggle_tars(tmp_path / "tars").glob("*.tar")}
    path = write_tar(tmp_path / "imagenet.tar", tars)
    told = "holds one tar per split, such as ILSVRC2012_img_"
    refused(told, "imagenet1k", "--source", path, *out)


def test_a_class_of_train_without_images_is_refused_and_one_of_val_reported(tmp_path, capsys):
    source = layouts.class_folders(tmp_path / "set")
    shutil.rmtree(source / "val" / SYNSETS[1])
    (source / "val" / SYNSETS[1]).mkdir()
    prepared(tmp_path / "out", "imagenet1k", "--source", source)
    assert f"note: 1 classes with training images have none in val ({SYNSETS[1]})" in capsys.readouterr().out
    shutil.rmtree(source / "train" / SYNSETS[0])
    prepared(tmp_path / "less", "imagenet1k", "--source", source)
    assert f"note: 1 classes of val have no training images ({SYNSETS[0]})" in capsys.readouterr().out
    (source / "train" / SYNSETS[0]).mkdir()
    refused("holds no images: download it again", "imagenet1k", "--source", source, "--out", tmp_path / "none")


def test_a_copy_made_by_a_browser_is_a_repeated_image(tmp_path):
    source = layouts.class_folders(tmp_path / "set")
    path = source / "train" / SYNSETS[0] / f"{SYNSETS[0]}_0.JPEG"
    shutil.copy(path, path.with_name(f"{path.stem} (1).JPEG"))
    refused("1 images occur more than once", "imagenet1k", "--source", source, "--out", tmp_path / "out")


def test_a_tar_of_another_split_than_its_folder_is_refused(tmp_path):
    source = layouts.class_folders(tmp_path / "set")
    write_tar(source / "train" / "val_images.tar", hub_named(*write_val()))
    told = "val_images.tar is named after val but is in a folder of train: rename or move it"
    refused(told, "imagenet1k", "--source", source, "--out", tmp_path / "out")
