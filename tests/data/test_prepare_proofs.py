"""The meaning of numbers is proved for each split and file separately, also by names next to the numbers."""

import json

import pytest

from focalnet_jax.data.class_lists import class_list, class_names
from tests.data.labelled import FROM_1, OWN, TRAIN, VAL, images, write_rows, write_shards
from tests.data.layouts import (
    NUMBERS,
    SYNSETS,
    write_parquet,
)
from tests.data.preparing import in_process, prepared, refused, write_tar  # noqa: F401

pytestmark = pytest.mark.usefixtures("in_process")
WRITERS = pytest.mark.parametrize("write", [write_rows, write_shards])


def write_parts(root, split, parts):
    """Writes one Parquet file per part: (labels by synset, kind of names)."""
    of = {names: images(split, names) for _, names in parts}
    for number, (labels, names) in enumerate(parts):
        rows = [(name, content, labels[synset]) for name, content, synset in of[names][number :: len(parts)]]
        write_parquet(root / f"{split}-{number:05d}-of-{len(parts):05d}.parquet", rows)


@pytest.mark.parametrize("labels", [OWN, FROM_1])
def test_the_proof_of_one_split_is_none_for_other_numbers_of_the_other(labels, tmp_path):
    """The numbers of train are unproven; those of val are proven by file names, or by the list of 1000 class names."""
    source = write_rows(tmp_path / "set", labels, NUMBERS, "none", "plain")
    refused("nothing proves that they are ImageNet's", "imagenet1k", "--source", source, "--out", tmp_path / "out")
    rows = [(name, content, NUMBERS[synset]) for name, content, synset in images("val", "hub")]
    write_parquet(source / "val.parquet", rows, class_names(1000))
    refused("nothing proves that they are ImageNet's", "imagenet1k", "--source", source, "--out", tmp_path / "out")


def test_synsets_of_one_split_prove_no_numbers_of_the_other(tmp_path):
    source = write_shards(tmp_path / "set", OWN, NUMBERS, "none", "none")
    shard = {}
    for name, content, synset in images("val"):
        said = {"synset": synset, "filename": name}
        shard |= {f"{name[-8:-5]}.jpg": content, f"{name[-8:-5]}.json": json.dumps(said).encode()}
    write_tar(source / "imagenet1k-val-0000.tar", shard)
    refused("nothing proves that they are ImageNet's", "imagenet1k", "--source", source, "--out", tmp_path / "out")


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("labels", [OWN, FROM_1])
def test_a_file_without_proofs_among_proven_ones_is_checked_by_itself(split, labels, tmp_path):
    other = "val" if split == "train" else "train"
    source = tmp_path / "set"
    write_parts(source, other, [(NUMBERS, "hub")])
    write_parts(source, split, [(NUMBERS, "hub"), (labels, "none")])
    told = f"nothing proves the order of the labels of {source / split}-00001-of-00002.parquet, "
    refused(told, "imagenet1k", "--source", source, "--out", tmp_path / "out")
    write_parts(source, split, [(NUMBERS, "hub"), (NUMBERS, "none")])
    assert prepared(tmp_path / "out", "imagenet1k", "--source", source)[1] == {"train": TRAIN, "val": VAL}


def test_own_numbers_with_a_gap_are_not_the_first_of_1000_classes(tmp_path):
    content, other = images("train")[0][1], images("train")[1][1]
    rows = [(None, content, number) for number in range(1000)]
    write_parquet(tmp_path / "set" / "train.parquet", rows, class_names(1000))
    rows = [(None, other, number) for number in range(31) if number != 4]
    write_parquet(tmp_path / "set" / "val.parquet", rows)
    refused("may be in another order", "imagenet1k", "--source", tmp_path / "set", "--out", tmp_path / "out")


def write_named(root, labels, said, kind="json", every=2):
    """Writes shards with numbers in .cls, the class of every second sample in .json or .txt, and no file names."""
    for split in ("train", "val"):
        shard = {}
        for number, (_, content, synset) in enumerate(images(split)):
            shard |= {f"{number:04d}.jpg": content, f"{number:04d}.cls": str(labels[synset]).encode()}
            if number % every == 0:
                text = json.dumps({"class_name": said[synset]}) if kind == "json" else said[synset]
                shard[f"{number:04d}.{kind}"] = text.encode()
        write_tar(root / f"imagenet1k-{split}-0000.tar", shard)
    return root


def test_a_name_next_to_the_number_of_a_sample_proves_or_contradicts_it(tmp_path):
    said = {synset: synset for synset in SYNSETS}
    source = write_named(tmp_path / "own", OWN, said)
    refused("labels of train contradict", "imagenet1k", "--source", source, "--out", tmp_path / "none")
    source = write_named(tmp_path / "right", NUMBERS, said)
    assert prepared(tmp_path / "out", "imagenet1k", "--source", source)[1] == {"train": TRAIN, "val": VAL}


@pytest.mark.parametrize("kind", ["json", "txt"])
def test_a_name_next_to_the_number_is_compared_with_the_list_of_classes(kind, tmp_path):
    said = dict(zip(SYNSETS, ("cat", "ant", "bee"), strict=True))
    source = write_named(tmp_path / "set", OWN, said, kind)
    (tmp_path / "right.txt").write_text("cat\nant\nbee")
    (tmp_path / "reversed.txt").write_text("bee\nant\ncat")
    arguments = ["webdataset", "--source", source, "--classes"]
    refused("labels of train contradict", *arguments, tmp_path / "reversed.txt", "--out", tmp_path / "none")
    _, found = prepared(tmp_path / "out", *arguments, tmp_path / "right.txt")
    assert found["val"] == {"cat": 2, "ant": 2, "bee": 2}


@pytest.mark.parametrize("kind", ["words", "stated", "listed"])
def test_words_that_are_swapped_against_the_names_of_images_are_refused(kind, tmp_path):
    """Two of many classes are swapped; the others agree."""
    words = dict.fromkeys(["n01440764", "n01443537", "n02102040", "n04356056", "n13133613", "n15075141"])
    words = {synset: synset_words(synset) for synset in words}
    contents = [content for _, content, _ in images("train")]
    arguments = ["parquet", "--source", tmp_path / "set", *(["--classes", tmp_path / "w"] if kind == "listed" else [])]
    for swapped in (True, False):
        names = list(words.values())
        names[:2] = names[1::-1] if swapped else names[:2]
        (tmp_path / "w").write_text("\n".join(names))
        rows = [
            (f"{synset}_{number}.JPEG", contents[number], names[place] if kind == "words" else place)
            for place, synset in enumerate(words)
            for number in range(4)
        ]
        write_parquet(tmp_path / "set" / "train.parquet", rows, names if kind == "stated" else None)
        if swapped:
            told = "the labels of train contradict the names of 8 of the 24 images with a class in their names"
            refused(told, *arguments, "--out", tmp_path / "none")
    assert prepared(tmp_path / "out", *arguments)[1] == {"train": dict.fromkeys(words.values(), 4)}


def synset_words(synset):
    """Returns the first word of a class."""
    return dict(class_list(1000))[synset].split(",")[0]


@WRITERS
def test_whole_numbers_written_as_text_with_a_point_are_numbers(write, tmp_path):
    floats = {synset: f"{number}.0" for synset, number in NUMBERS.items()}
    source = write(tmp_path / "set", floats, floats)
    assert prepared(tmp_path / "out", "imagenet1k", "--source", source)[1] == {"train": TRAIN, "val": VAL}
    floats = {synset: f"{number}.0" for synset, number in OWN.items()}
    source = write(tmp_path / "own", floats, floats)
    refused("the labels of train contradict", "imagenet1k", "--source", source, "--out", tmp_path / "none")


@pytest.mark.parametrize("shift", [0, 1])
def test_a_key_that_begins_with_a_synset_proves_it(shift, tmp_path):
    for split in ("train", "val"):
        shard = {}
        for number, (_, content, synset) in enumerate(images(split)):
            key = f"{synset}_{split}{number}"
            shard |= {f"{key}.jpg": content, f"{key}.cls": str(NUMBERS[synset] + shift).encode()}
        write_tar(tmp_path / "set" / f"imagenet1k-{split}-0000.tar", shard)
    arguments = ["imagenet1k", "--source", tmp_path / "set", "--classes", "imagenet1k"]
    if shift:
        told = "correct the list of --classes (the numbers seem to start at 1"
        refused(told, *arguments, "--out", tmp_path / "out")
    else:
        assert prepared(tmp_path / "out", *arguments)[1] == {"train": TRAIN, "val": VAL}
