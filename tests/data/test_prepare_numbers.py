"""Labels that are numbers or words must agree with the classes that image names prove; others are errors."""

import json

import pytest

from focalnet_jax.data.class_lists import class_list
from tests.data import layouts
from tests.data.labelled import FROM_1, OWN, TRAIN, VAL, images, write_rows, write_shards
from tests.data.layouts import (
    IDS,
    NUMBERS,
    SYNSETS,
    pack,
    solution,
    write_folder,
    write_parquet,
    write_val,
)
from tests.data.preparing import in_process, prepared, refused, write_tar  # noqa: F401

pytestmark = pytest.mark.usefixtures("in_process")
WRITERS = pytest.mark.parametrize("write", [write_rows, write_shards])


@WRITERS
@pytest.mark.parametrize(
    ("train", "val", "names", "told"),
    [
        (FROM_1, FROM_1, ["plain", "plain"], "start at 1; the first line is for 0"),
        (
            NUMBERS,
            FROM_1,
            ["plain", "hub"],
            "the labels of train agree with the names, so number the classes of val in the same way",
        ),
        (NUMBERS, OWN, ["plain", "hub"], "label 2 means n01484850, but 2 images with this label are named after"),
        (NUMBERS, FROM_1, ["plain", "plain"], "the labels of val mean 2 classes that have no training images"),
        (NUMBERS, OWN, ["plain", "plain"], "the labels of val mean 1 classes that have no training images"),
        (OWN, OWN, ["plain", "none"], "label 2 means n01484850, but 4 images with this label are named after"),
        (IDS, IDS, ["plain", "none"], "the labels of train contradict the names of"),
        (FROM_1, FROM_1, ["none", "plain"], "3 different numbers from 1 to 66, and nothing proves"),
        (FROM_1, FROM_1, ["none", "hub"], "the labels of val contradict the names of"),
        (NUMBERS, FROM_1, ["plain", "none"], "the labels of val mean 2 classes that have no training images"),
        (NUMBERS, OWN, ["plain", "none"], "the labels of val mean 1 classes that have no training images"),
        (OWN, OWN, ["none", "none"], "3 different numbers from 0 to 2, and nothing proves that they are ImageNet's"),
        (NUMBERS, NUMBERS, ["none", "none"], "--classes imagenet1k for the order of the sorted synsets"),
        (NUMBERS | {SYNSETS[0]: 1000}, NUMBERS, ["none", "none"], "such as 1000, are outside the 1000 classes"),
        (NUMBERS, NUMBERS | {SYNSETS[0]: 1000}, ["plain", "none"], "2 images of val, such as 1000, are outside"),
    ],
)  # fmt: skip
def test_numbers_that_mean_or_may_mean_other_classes_are_refused(write, train, val, names, told, tmp_path):
    source = write(tmp_path / "set", train, val, *names)
    refused(told, "imagenet1k", "--source", source, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@WRITERS
@pytest.mark.parametrize("names", [["plain", "plain"], ["plain", "none"], ["hub", "hub"], ["none", "plain"]])
def test_numbers_that_names_prove_are_used(write, names, tmp_path):
    source = write(tmp_path / "set", NUMBERS, NUMBERS, *names)
    assert prepared(tmp_path / "out", "imagenet1k", "--source", source)[1] == {"train": TRAIN, "val": VAL}


@WRITERS
def test_the_advice_of_an_error_works(write, tmp_path):
    """KIND imagenet1k has ImageNet's classes; --classes sets the order of the numbers."""
    expected = {"train": TRAIN, "val": VAL}
    source = write(tmp_path / "sorted", NUMBERS, NUMBERS, "none", "none")
    assert prepared(tmp_path / "1", "imagenet1k", "--source", source, "--classes", "imagenet1k")[1] == expected
    own = tmp_path / "own.txt"
    own.write_text("\n".join(SYNSETS))
    source = write(tmp_path / "own", OWN, OWN)
    card, found = prepared(tmp_path / "2", "imagenet1k", "--source", source, "--classes", own)
    assert found == expected
    assert len(card["classes"]) == 1000
    own.write_text("\n".join(["background", *SYNSETS]))
    shifted = {synset: number + 1 for synset, number in OWN.items()}
    source = write(tmp_path / "from1", shifted, shifted)
    assert prepared(tmp_path / "3", "imagenet1k", "--source", source, "--classes", own)[1] == expected
    own.write_text("\n".join(reversed(SYNSETS)))
    refused("the labels of train contradict", "imagenet1k", "--source", source, "--classes", own, "--out", tmp_path)


def test_each_split_is_checked_by_itself(tmp_path):
    """Train is a tar. The numbers of val start at 1, but none is too large."""
    layouts.kaggle_tars(tmp_path / "set")
    (tmp_path / "set" / "ILSVRC2012_img_val.tar").unlink()
    (tmp_path / "set" / "LOC_val_solution.csv").unlink()
    rows = [(None, content, FROM_1[synset]) for _, content, synset in images("val")]
    write_parquet(tmp_path / "set" / "validation.parquet", rows)
    out = ["--out", tmp_path / "out"]
    refused("mean 2 classes that have no training images", "imagenet1k", "--source", tmp_path / "set", *out)
    rows = [(None, content, NUMBERS[synset]) for _, content, synset in images("val")]
    write_parquet(tmp_path / "set" / "validation.parquet", rows)
    _, found = prepared(tmp_path / "right", "imagenet1k", "--source", tmp_path / "set")
    assert found == {"train": TRAIN, "val": VAL}


def test_all_1000_numbers_are_imagenets_and_missing_images_are_counted(tmp_path, capsys):
    content, other = images("train")[0][1], images("train")[1][1]
    rows = [(None, content, number) for number in range(1000)]
    write_parquet(tmp_path / "set" / "train.parquet", [(None, other, number) for number in range(1000)])
    write_parquet(tmp_path / "set" / "val.parquet", rows)
    card, _ = prepared(tmp_path / "out", "imagenet1k", "--source", tmp_path / "set")
    assert card["classes"]["n01751748"] == {"train": 1, "val": 1}
    told = "note: 1,000 of 1,281,167 train images and 1,000 of 50,000 val images of ImageNet-1K are present\n"
    assert told in capsys.readouterr().out
    write_parquet(tmp_path / "set" / "val.parquet", [(None, content, number) for number in range(1, 1000)])
    arguments = ["imagenet1k", "--source", tmp_path / "set", "--out", tmp_path / "none"]
    refused("the labels of val are 1 to 999, but train has 1000 classes, so they may start at 1", *arguments)
    write_parquet(tmp_path / "set" / "val.parquet", [(None, content, number) for number in range(10)])
    refused("they may be in another order", *arguments)


def test_a_further_column_of_file_names_is_read(tmp_path):
    import pyarrow
    from pyarrow import parquet

    for labels in (NUMBERS, OWN):
        for split in ("train", "val"):
            names, contents, synsets = zip(*images(split), strict=True)
            columns = {"image": contents, "filename": names, "label": [labels[synset] for synset in synsets]}
            parquet.write_table(pyarrow.table(columns), tmp_path / f"{split}.parquet")
        arguments = ["imagenet1k", "--source", tmp_path]
        if labels is NUMBERS:
            assert prepared(tmp_path / "out", *arguments)[1] == {"train": TRAIN, "val": VAL}
    refused("the labels of train contradict the names", *arguments, "--out", tmp_path / "none")


@WRITERS
def test_a_label_list_is_compared_with_labels_and_replaces_missing_ones(write, tmp_path):
    source = write(tmp_path / "set", NUMBERS, dict.fromkeys(SYNSETS, -1))
    refused("no image of a known class in val", "imagenet1k", "--source", source, "--out", tmp_path / "none")
    solution(source, write_val()[1])
    assert prepared(tmp_path / "out", "imagenet1k", "--source", source)[1] == {"train": TRAIN, "val": VAL}
    changed = dict(zip(SYNSETS, (1, 0, 65), strict=True))
    source = write(tmp_path / "changed", NUMBERS, changed)
    solution(tmp_path, write_val()[1])
    arguments = ["--val-labels", tmp_path / "LOC_val_solution.csv", "--out", tmp_path / "none"]
    refused("the labels of val contradict the names of 4", "imagenet1k", "--source", source, *arguments)
    solution(source, write_val()[1])
    refused("the labels of val contradict the names of 4", "imagenet1k", "--source", source, *arguments[2:])


def write_words(root, crane, json_keys=(), names="plain"):
    """Writes shards of the two classes named crane, n02012849 and n03126707, and of a sea snake."""
    synsets, places = {"n01751748": "sea snake", "n02012849": crane, "n03126707": crane}, {}
    places |= dict(zip(synsets, (65, 134, 517), strict=True))
    content = images("val")[0][1]
    for split in ("train", "val"):
        shard = {}
        for number, (synset, word) in enumerate(synsets.items(), 1):
            key = f"{synset}_{number}" if split == "train" else f"ILSVRC2012_val_{number:08d}"
            said = {"class_name": word} | {name: places[synset] for name in json_keys}
            shard |= {f"{key}.jpg": content, f"{key}.json": json.dumps(said).encode()}
            if not json_keys:
                shard[f"{key}.cls"] = str(places[synset]).encode()
        write_tar(root / f"imagenet1k-{split}-0000.tar", shard)
    return root


@pytest.mark.parametrize("json_keys", [(), ("label",), ("class_id", "label")])
def test_a_word_of_two_classes_is_determined_by_the_number_of_the_sample(json_keys, tmp_path):
    source = write_words(tmp_path / "set", "crane", json_keys)
    card, found = prepared(tmp_path / "out", "imagenet1k", "--source", source)
    once = dict.fromkeys(("n01751748", "n02012849", "n03126707"), 1)
    assert found == {"train": once, "val": once}
    assert card["rejected"] == 0


def test_a_word_of_two_classes_is_determined_by_the_image_name_or_a_list_or_refused(tmp_path):
    words = {"n01751748": "sea snake", "n02012849": "crane", "n03126707": "crane"}
    content = images("val")[0][1]
    write_parquet(tmp_path / "set" / "train.parquet", [(f"{s}_1.JPEG", content, word) for s, word in words.items()])
    rows = [(f"ILSVRC2012_val_{n:08d}.JPEG", content, word) for n, word in enumerate(words.values(), 1)]
    write_parquet(tmp_path / "set" / "val.parquet", rows)
    arguments = ["imagenet1k", "--source", tmp_path / "set"]
    refused("2 images, such as ILSVRC2012_val_00000002.JPEG, are words", *arguments, "--out", tmp_path / "none")
    solution(tmp_path / "set", list(words))
    assert prepared(tmp_path / "out", *arguments)[1] == {split: dict.fromkeys(words, 1) for split in ("train", "val")}


@pytest.mark.parametrize("key", ["class_id", "class_index", "target"])
def test_numbers_that_differ_within_a_sample_contradict_each_other(key, tmp_path):
    shard = {}
    for name, content, synset in images("train"):
        said = {key: NUMBERS[synset]}
        shard |= {f"{name[-8:-5]}{synset}.jpg": content, f"{name[-8:-5]}{synset}.json": json.dumps(said).encode()}
        shard[f"{name[-8:-5]}{synset}.cls"] = str((NUMBERS[synset] + 1) % 1000).encode()
    write_tar(tmp_path / "imagenet1k-train-0000.tar", shard)
    arguments = ["webdataset", "--source", tmp_path, "--out", tmp_path / "out"]
    refused("contradictory labels", *arguments)


def test_a_folder_whose_name_begins_with_n_is_not_a_synset(tmp_path):
    for split in ("train", "val"):
        shard = {}
        for number, (name, content, synset) in enumerate(images(split)):
            said = {"filename": f"nvme/{name}", "label": NUMBERS[synset]}
            shard |= {f"{number:04d}.jpg": content, f"{number:04d}.json": json.dumps(said).encode()}
        write_tar(tmp_path / f"imagenet1k-{split}-0000.tar", shard)
    assert prepared(tmp_path / "out", "imagenet1k", "--source", tmp_path)[1] == {"train": TRAIN, "val": VAL}


def test_names_of_classes_in_another_order_than_the_names_of_images_are_refused(tmp_path):
    """The names are in Parquet files, or in a list of the user."""
    out = ["--out", tmp_path / "none"]
    rows = [(name, content, OWN[synset]) for name, content, synset in images("train")]
    write_parquet(tmp_path / "stated" / "train.parquet", rows, list(reversed(SYNSETS)))
    told = "the labels of train contradict the names of 11 of the 15 images with a class in their names"
    refused(told, "parquet", "--source", tmp_path / "stated", *out)
    source = write_rows(tmp_path / "given", OWN, OWN)
    listed = tmp_path / "classes.txt"
    listed.write_text("\n".join(reversed(SYNSETS)))
    refused(told, "parquet", "--source", source, "--classes", listed, *out)
    listed.write_text("\n".join(SYNSETS))
    _, found = prepared(tmp_path / "out", "parquet", "--source", source, "--classes", listed)
    assert found == {"train": TRAIN, "val": VAL}
    source = write_rows(tmp_path / "val1", OWN, {synset: number + 1 for synset, number in OWN.items()}, "plain", "none")
    refused(
        "the labels of 2 images of val, such as 3, are outside",
        "parquet",
        "--source",
        source,
        "--classes",
        listed,
        *out,
    )


def test_a_class_of_words_may_hold_images_of_other_synsets(tmp_path):
    """The user calls the class of all cats tabby, and the class of all fish tench."""
    content = images("train")[0][1]
    synsets = ["n02123045", "n02123159", "n02124075", "n01440764", "n01443537"]
    rows = [(f"{synset}_1.JPEG", content, number // 3) for number, synset in enumerate(synsets)]
    write_parquet(tmp_path / "train.parquet", rows, ["tabby", "tench"])
    _, found = prepared(tmp_path / "out", "parquet", "--source", tmp_path)
    assert found == {"train": {"tabby": 3, "tench": 2}}
    write_parquet(tmp_path / "train.parquet", rows, ["tench", "tabby"])
    refused("the labels of train contradict the names of", "parquet", "--source", tmp_path, "--out", tmp_path / "none")


def test_1001_names_begin_with_a_class_for_the_background(tmp_path):
    names = ["background", *(lemmas for _, lemmas in class_list(1000))]
    for split in ("train", "val"):
        rows = [(name, content, FROM_1[synset]) for name, content, synset in images(split)]
        write_parquet(tmp_path / f"{split}.parquet", rows, names)
    assert prepared(tmp_path / "out", "imagenet1k", "--source", tmp_path)[1] == {"train": TRAIN, "val": VAL}
    card, _ = prepared(tmp_path / "own", "parquet", "--source", tmp_path)
    assert list(card["classes"])[:2] == ["background", "tench, Tinca tinca"]


def test_a_repeated_shard_is_refused(tmp_path):
    source = write_shards(tmp_path / "set", NUMBERS, NUMBERS, "none", "plain")
    shard = source / "imagenet1k-train-0000.tar"
    shard.with_name("imagenet1k-train-0001.tar").write_bytes(shard.read_bytes())
    refused("are the same file", "imagenet1k", "--source", source, "--out", tmp_path / "out")
    rows = [(None, content, NUMBERS[synset]) for _, content, synset in images("train")]
    write_parquet(tmp_path / "rows" / "train-0.parquet", rows)
    (tmp_path / "rows" / "train-0 (1).parquet").write_bytes((tmp_path / "rows" / "train-0.parquet").read_bytes())
    refused("are the same file", "parquet", "--source", tmp_path / "rows", "--out", tmp_path / "out")


def test_few_wrong_labels_among_right_ones_are_rejected_by_name(tmp_path):
    rows = [(name, content, NUMBERS[synset]) for name, content, synset in images("train")]
    rows[0] = (*rows[0][:2], 65)
    write_parquet(tmp_path / "set" / "train.parquet", rows)
    write_folder(tmp_path / "set", {"val.tar": pack({n: c for n, c, _ in images("val", "hub")})})
    card, found = prepared(tmp_path / "out", "imagenet1k", "--source", tmp_path / "set")
    assert found == {"train": TRAIN | {SYNSETS[0]: 5}, "val": VAL}
    assert card["rejected"] == 2


def test_an_existing_data_set_with_wrong_labels_is_not_reported_as_finished(tmp_path, monkeypatch):
    source = write_rows(tmp_path / "set", NUMBERS, FROM_1)
    arguments = ["imagenet1k", "--source", source]
    with monkeypatch.context() as patched:
        patched.setattr("focalnet_jax.data.prepare.numbering.check_numbering", lambda *_: None)
        prepared(tmp_path / "out", *arguments)
    refused("the labels of val mean 2 classes", *arguments, "--out", tmp_path / "out")
    assert (tmp_path / "out" / "imagenet2012" / "1.0.0" / "card.json").exists()
