"""Sources of ImageNet-1K given one by one, in one tar, twice or partly."""

import shutil

import pytest

from focalnet_jax.data.class_lists import class_names
from tests.data import layouts
from tests.data.layouts import (
    NUMBERS,
    SYNSETS,
    pack,
    solution,
    write_folder,
    write_parquet,
    write_train,
    write_val,
)
from tests.data.preparing import contents, in_process, prepared, refused, write_tar  # noqa: F401

pytestmark = pytest.mark.usefixtures("in_process")


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
    """Returns file names like on the Hugging Face Hub."""
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
        "the sources contain no validation images: add them to --source, or give --held-out FRACTION",
        "imagenet1k",
        "--source",
        path,
        *out,
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
    told = (
        f"train contains 1 validation images, such as {moved.name} in {source / 'train' / moved.parent.name}: move them"
    )
    refused(told, "imagenet1k", "--source", source, *out)
    val, synsets = write_val()
    train = {f"imagenet/train/{name}": content for name, content in write_train(tmp_path).items()}
    held = {f"imagenet/val/{name}": content for name, content in hub_named(val, synsets).items()}
    write_tar(tmp_path / "tars" / "train.tar", train | held)
    write_tar(tmp_path / "tars" / "val.tar", hub_named(val, synsets))
    refused("train.tar is named after train but contains val", "imagenet1k", "--source", tmp_path / "tars", *out)


def test_validation_images_next_to_the_folders_of_synsets_belong_to_val(expected, tmp_path):
    val, synsets = write_val()
    named = list(hub_named(val, synsets).items())
    write_folder(tmp_path / "set", write_train(tmp_path) | dict(named[:3]))
    write_folder(tmp_path / "set" / "val", dict(named[3:]))
    card, _ = prepared(tmp_path / "out", "imagenet1k", "--source", tmp_path / "set")
    assert card["fingerprint"] == expected["fingerprint"]


def test_splits_other_than_those_of_imagenet_are_kept(tmp_path, capsys):
    """For example Imagenette, whose splits both contain training and validation images of ImageNet."""
    source = layouts.class_folders(tmp_path / "set")
    moved = next((source / "val" / SYNSETS[0]).iterdir())
    moved.rename(source / "train" / SYNSETS[0] / moved.name)
    moved = source / "train" / SYNSETS[1] / f"{SYNSETS[1]}_0.JPEG"
    moved.rename(source / "val" / SYNSETS[1] / moved.name)
    _, found = prepared(tmp_path / "out", "imagenet1k", "--source", source)
    assert found["val"] == {SYNSETS[0]: 1, SYNSETS[1]: 3, SYNSETS[2]: 2}
    assert "note: train contains 1 images with names of ImageNet validation images" in capsys.readouterr().out


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
    refused(f"contains no images of val (not read: {source / 'data'})", "imagenet1k", "--source", source, *out)
    tars = {path.name: path.read_bytes() for path in layouts.kaggle_tars(tmp_path / "tars").glob("*.tar")}
    path = write_tar(tmp_path / "imagenet.tar", tars)
    told = "contains one tar per split, such as ILSVRC2012_img_"
    refused(told, "imagenet1k", "--source", path, *out)


def test_a_class_of_train_without_images_is_refused_and_one_of_val_reported(tmp_path, capsys):
    source = layouts.class_folders(tmp_path / "set")
    shutil.rmtree(source / "val" / SYNSETS[1])
    (source / "val" / SYNSETS[1]).mkdir()
    prepared(tmp_path / "out", "imagenet1k", "--source", source)
    assert f"note: 1 classes with training images have no images in val ({SYNSETS[1]})" in capsys.readouterr().out
    shutil.rmtree(source / "train" / SYNSETS[0])
    prepared(tmp_path / "less", "imagenet1k", "--source", source)
    assert f"note: 1 classes of val have no training images ({SYNSETS[0]})" in capsys.readouterr().out
    (source / "train" / SYNSETS[0]).mkdir()
    refused("contains no images: download it again", "imagenet1k", "--source", source, "--out", tmp_path / "none")


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
