"""Folders are recognised as splits, as classes, or as neither."""

import pytest

from focalnet_jax.data.tfds_source import TfdsSource
from focalnet_jax.errors import UserError
from tests.data.layouts import write_folder
from tests.data.pictures import pictures
from tests.data.preparing import in_process, prepared, refused, write_tar  # noqa: F401

pytestmark = pytest.mark.usefixtures("in_process")


def test_sources_without_training_images_are_a_data_set_to_evaluate_on(tmp_path):
    write_folder(tmp_path / "set" / "val", pictures("n02/a.jpg", "n01/b.jpg", "n02/c.jpg"))
    card, found = prepared(tmp_path / "out", "imagefolder", "--source", tmp_path / "set")
    assert found == {"val": {"n01": 1, "n02": 2}}
    assert list(card["classes"]) == ["n01", "n02"]
    with pytest.raises(UserError, match="train"):
        TfdsSource(str(tmp_path / "out"), "train")


@pytest.mark.parametrize(
    "names",
    [
        [
            "imagenet-a/n01440764/1.jpg",
            "imagenet-a/n01443537/2.jpg",
            "imagenet-r/n01440764/3.jpg",
            "imagenet-r/n01443537/4.jpg",
        ],
        ["part1/n01440764/1.jpg", "part1/n01443537/2.jpg", "part2/n01484850/3.jpg", "part2/n01751748/4.jpg"],
    ],
)
def test_data_sets_or_parts_of_one_are_not_classes(names, tmp_path):
    write_folder(tmp_path / "set", pictures(*names))
    write_tar(tmp_path / "set.tar", pictures(*names))
    told = f"{names[0].partition('/')[0]} contains class folders, such as n01440764, n01443537"
    for source in ("set", "set.tar"):
        refused(told, "imagefolder", "--source", tmp_path / source, "--out", tmp_path / "out")
    write_folder(tmp_path / "splits", pictures(*(f"train/{name}" for name in names)))
    refused(told, "imagefolder", "--source", tmp_path / "splits", "--out", tmp_path / "out")


def test_folders_of_synsets_in_a_class_of_a_synset_or_next_to_its_images_belong_to_it(tmp_path):
    names = ["n02084071/n02085620/1.jpg", "n02084071/n02085782/2.jpg", "fish/n01440764/3.jpg", "fish/n01443537/4.jpg"]
    write_folder(tmp_path / "set", pictures(*names, "fish/5.jpg"))
    _, found = prepared(tmp_path / "out", "imagefolder", "--source", tmp_path / "set")
    assert found == {"train": {"n02084071": 2, "fish": 3}}


def test_kaggles_parts_of_imagenet100_are_splits(tmp_path):
    parts = {"train.X1": ["n01440764"], "train.X2": ["n01443537", "n01484850"]}
    names = [f"{part}/{synset}/{synset}_{n}.JPEG" for part, of in parts.items() for synset in of for n in "12"]
    names += [f"val.X/{synset}/{synset}_3.JPEG" for of in parts.values() for synset in of]
    write_folder(tmp_path / "set", pictures(*names, "Labels.json"))
    synsets = [synset for of in parts.values() for synset in of]
    expected = {"train": dict.fromkeys(synsets, 2), "val": dict.fromkeys(synsets, 1)}
    for kind in ("imagefolder", "imagenet1k"):
        assert prepared(tmp_path / kind, kind, "--source", tmp_path / "set")[1] == expected
    sources = [tmp_path / "set" / part for part in (*parts, "val.X")]
    assert prepared(tmp_path / "one", "imagenet1k", "--source", *sources)[1] == expected


@pytest.mark.parametrize(
    "names",
    [
        ["train/images/cat/1.jpg", "train/images/dog/2.jpg", "val/images/cat/3.jpg"],
        ["train/images/cat/1.jpg", "train/images/dog/2.jpg", "val/cat/3.jpg"],
        ["train/imgs/cat/1.jpg", "train/imgs/dog/2.jpg", "val/pictures/cat/3.jpg"],
        ["train/train/cat/1.jpg", "train/train/dog/2.jpg", "val/val/cat/3.jpg"],
    ],
)
def test_a_folder_of_the_classes_of_a_split_is_found_in_each_split(names, tmp_path):
    write_folder(tmp_path / "set", pictures(*names))
    expected = {"train": {"cat": 1, "dog": 1}, "val": {"cat": 1}}
    card, found = prepared(tmp_path / "out", "imagefolder", "--source", tmp_path / "set")
    assert found == expected
    write_folder(tmp_path / "set", pictures("train/readme.jpg", "train/readme.txt"))
    card, found = prepared(tmp_path / "stray", "imagefolder", "--source", tmp_path / "set")
    assert found == expected
    assert (card["rejected"], card["left_out"]) == (1, {".txt": 1})


@pytest.mark.parametrize("stray", [[], ["train/readme.jpg"]])
def test_a_folder_of_the_classes_is_found_in_a_tar(stray, tmp_path):
    names = ["train/images/cat/1.jpg", "train/images/dog/2.jpg", "val/images/cat/3.jpg", *stray]
    write_tar(tmp_path / "set.tar", pictures(*names))
    card, found = prepared(tmp_path / "out", "imagefolder", "--source", tmp_path / "set.tar")
    assert found == {"train": {"cat": 1, "dog": 1}, "val": {"cat": 1}}
    assert card["rejected"] == len(stray)


def test_one_class_in_a_folder_of_images_keeps_its_name(tmp_path):
    names = ["train/images/cat/1.jpg", "train/images/cat/2.jpg", "val/images/cat/3.jpg"]
    write_folder(tmp_path / "set", pictures(*names))
    write_tar(tmp_path / "set.tar", pictures(*names))
    for source in ("set", "set.tar"):
        _, found = prepared(tmp_path / f"{source}-out", "imagefolder", "--source", tmp_path / source)
        assert found == {"train": {"cat": 2}, "val": {"cat": 1}}


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["train/images/1.jpg", "train/images/2.jpg", "val/images/3.jpg"],
         "2 images of train, such as images/1.jpg, are not in class folders"),
        (["val/images/1.jpg", "val/images/2.jpg"], "2 images of val, such as images/1.jpg, are not in class folders"),
        (["train/cat/1.jpg", "train/dog/2.jpg", "val/images/3.jpg"],
         "1 images of val, such as images/3.jpg, are not in class folders"),
        (["train/cat/a/1.jpg", "train/cat/b/2.jpg", "val/cat/a/3.jpg", "val/cat/b/4.jpg"],
         "cat is the only folder of a split and contains folders, such as a, b"),
    ],
)  # fmt: skip
def test_folders_of_images_without_classes_are_refused(names, told, tmp_path):
    write_folder(tmp_path / "set", pictures(*names))
    write_tar(tmp_path / "set.tar", pictures(*names))
    for source in ("set", "set.tar"):
        refused(told, "imagefolder", "--source", tmp_path / source, "--out", tmp_path / "out")


def test_the_name_of_a_source_is_its_split(tmp_path):
    names = ["train/n01440764/1.jpg", "train/n01443537/2.jpg", "val/n01440764/3.jpg", "val/n01443537/4.jpg"]
    write_folder(tmp_path / "set", pictures(*names))
    write_folder(tmp_path / "21k", pictures(*(f"imagenet21k_{name}" for name in names)))
    for split in ("train", "val"):
        inside = [name.partition("/")[2] for name in names if name.startswith(split)]
        write_tar(tmp_path / "tars" / f"{split}.tar", pictures(*inside))
    classes = dict.fromkeys(("n01440764", "n01443537"), 1)
    for number, (folder, kind) in enumerate(
        [("set/{}", "imagefolder"), ("tars/{}.tar", "imagefolder"), ("21k/imagenet21k_{}", "imagenet22k")]
    ):
        paths = [tmp_path / folder.format(split) for split in ("train", "val")]
        _, found = prepared(tmp_path / f"out{number}", kind, "--source", *paths)
        assert found == {"train": classes, "val": classes}
    _, found = prepared(tmp_path / "val-out", "imagefolder", "--source", tmp_path / "set" / "val")
    assert found == {"val": classes}
    write_folder(tmp_path / "imagenetv2-top-images-format-val", pictures("0/1.jpg", "1/2.jpg"))
    _, found = prepared(tmp_path / "v2", "imagefolder", "--source", tmp_path / "imagenetv2-top-images-format-val")
    assert found == {"val": {"0": 1, "1": 1}}
    (tmp_path / "set").rename(tmp_path / "train")  # its subfolders are the splits, although it is named train
    _, found = prepared(tmp_path / "splits", "imagefolder", "--source", tmp_path / "train")
    assert found == {"train": classes, "val": classes}


@pytest.mark.parametrize("others", [["train", "train"], ["train", "."], [".", "train"]])
def test_a_source_that_is_given_twice_is_refused(others, tmp_path):
    write_folder(tmp_path / "set", pictures("train/cat/1.jpg", "train/dog/2.jpg", "val/cat/3.jpg"))
    paths = [tmp_path / "set" / other for other in others]
    refused("would occur twice", "imagefolder", "--source", *paths, "--out", tmp_path / "out")


def test_number_folders_of_val_that_train_lacks_are_refused(tmp_path):
    names = [f"train/{n}/{n}.jpg" for n in range(3)] + [f"val/{n + 1}/{n}.jpg" for n in range(3)]
    write_folder(tmp_path / "set", pictures(*names))
    told = "val has class folders that train lacks, such as 3, so a number may mean different classes"
    refused(told, "imagefolder", "--source", tmp_path / "set", "--out", tmp_path / "out")


def test_word_folders_that_are_swapped_against_the_names_of_images_are_refused(tmp_path):
    folders = {"goldfish": "n01440764", "tench": "n01443537", "collie": "n02106030"}
    names = [f"{folder}/{synset}_{number}.JPEG" for folder, synset in folders.items() for number in range(3)]
    write_folder(tmp_path / "set", pictures(*names))
    write_tar(tmp_path / "set.tar", pictures(*names))
    for source in ("set", "set.tar"):
        told = "the labels of train contradict the names of 6 of the 9 images with a class in their names: 3 images"
        refused(told, "imagefolder", "--source", tmp_path / source, "--out", tmp_path / "out")


@pytest.mark.parametrize(
    ("train", "test"),
    [("seg_train/seg_train", "seg_test/seg_test"), ("training_set/training_set", "test_set/test_set"),
     ("train_images", "test-images"), ("Trainset", "Testset"), ("training", "testing")],
)  # fmt: skip
def test_folders_named_after_splits_in_more_words_are_splits(train, test, tmp_path):
    write_folder(
        tmp_path / "set", pictures(*(f"{split}/{c}/{n}.jpg" for split in (train, test) for c in "ab" for n in "12"))
    )
    _, found = prepared(tmp_path / "out", "imagefolder", "--source", tmp_path / "set")
    assert found == {"train": {"a": 2, "b": 2}, "test": {"a": 2, "b": 2}}


@pytest.mark.parametrize("name", ["bullet_train", "test_tube", "train_station", "dress_set", "train_test"])
def test_a_class_may_have_the_word_for_a_split_in_its_name(name, tmp_path):
    write_folder(tmp_path / "set", pictures(f"{name}/1.jpg", "car/2.jpg"))
    _, found = prepared(tmp_path / "out", "imagefolder", "--source", tmp_path / "set")
    assert found == {"train": {name: 1, "car": 1}}


def test_a_copy_of_the_data_set_is_not_a_class(tmp_path):
    names = ["daisy/1.jpg", "rose/2.jpg", "flowers/daisy/1.jpg", "flowers/rose/2.jpg"]
    write_folder(tmp_path / "set", pictures(*names))
    write_tar(tmp_path / "set.tar", pictures(*names))
    for source in ("set", "set.tar"):
        told = "flowers contains folders with names of classes, such as daisy, rose, so it seems to be a copy"
        refused(told, "imagefolder", "--source", tmp_path / source, "--out", tmp_path / "out")


@pytest.mark.parametrize("listed", [False, True])
def test_numbers_of_classes_in_two_spellings_are_refused(listed, tmp_path):
    names = [f"{split}/{n:0{digits}}/{n}.jpg" for split, digits in (("train", 2), ("val", 1)) for n in range(11)]
    write_folder(tmp_path / "set", pictures(*names))
    (tmp_path / "numbers.txt").write_text("".join(f"{n}\n" for n in range(11)))
    arguments = ["--source", tmp_path / "set", "--out", tmp_path / "out"]
    arguments += ["--classes", tmp_path / "numbers.txt"] if listed else []
    refused("are the same number: use the same spelling", "imagefolder", *arguments)


def test_classes_that_only_val_has_are_noted(tmp_path, capsys):
    write_folder(tmp_path / "set", pictures("train/a/1.jpg", "train/b/2.jpg", "val/a/3.jpg", "val/c/4.jpg"))
    card, _ = prepared(tmp_path / "out", "imagefolder", "--source", tmp_path / "set")
    assert card["rejected"] == 1
    assert "note: val has classes that train lacks (c): their images are rejected" in capsys.readouterr().out
