"""A label means the same class in every split; otherwise names or numbers show it, which is an error."""

import pytest
from PIL import Image

from tests.data.layouts import SYNSETS, write_folder, write_parquet, write_train, write_val
from tests.data.pictures import encoded
from tests.data.preparing import in_process, prepared, refused, write_tar  # noqa: F401

pytestmark = pytest.mark.usefixtures("in_process")
OWN = {synset: number for number, synset in enumerate(SYNSETS)}
PICTURE = encoded(Image.new("RGB", (8, 8), (9, 99, 200)))


def images(split, named):
    """Returns (file name, content, synset) of the images of a split; the file name has the synset, or is a number."""
    if split == "train":
        found = [(name.split("/")[1], content, name[:9]) for name, content in write_train(None).items()]
    else:
        val, synsets = write_val()
        found = [
            (f"{name[:-5]}_{synset}.JPEG", content, synset)
            for synset, (name, content) in zip(synsets, val.items(), strict=True)
        ]
    return [(name if named else f"{place}.JPEG", *rest) for place, (name, *rest) in enumerate(found)]


def write_rows(root, val, named, without=()):
    for split, labels in (("train", OWN), ("val", val)):
        found = [image for image in images(split, named) if split == "train" or image[2] not in without]
        write_parquet(root / f"{split}.parquet", [(name, content, labels[synset]) for name, content, synset in found])
    return root


def write_shards(root, val, named, without=()):
    for split, labels in (("train", OWN), ("val", val)):
        found = [image for image in images(split, named) if split == "train" or image[2] not in without]
        shard = {}
        for name, content, synset in found:
            shard |= {f"{name[:-5]}.jpg": content, f"{name[:-5]}.cls": str(labels[synset]).encode()}
        write_tar(root / f"{split}-0.tar", shard)
    return root


def write_folders(root, val, named, without=()):
    for split, labels in (("train", OWN), ("val", val)):
        found = [image for image in images(split, named) if split == "train" or image[2] not in without]
        write_folder(root / split, {f"{labels[synset]}/{name}": content for name, content, synset in found})
    return root


WRITERS = {"parquet": write_rows, "webdataset": write_shards, "imagefolder": write_folders}
FROM_1 = {synset: number + 1 for synset, number in OWN.items()}
OTHER = dict(zip(SYNSETS, (1, 0, 2), strict=True))


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize(("val", "without"), [(FROM_1, ()), (FROM_1, SYNSETS[2:]), (OTHER, ())])
def test_numbers_that_the_names_of_images_give_another_class_in_val_are_refused(kind, val, without, tmp_path):
    source = WRITERS[kind](tmp_path / "set", val, True, without)
    told = "give the classes of val the same numbers or names as in train"
    if kind == "imagefolder" and val is FROM_1 and not without:
        told = "val has class folders that train lacks"
    refused(told, kind, "--source", source, "--out", tmp_path / "out")
    source = WRITERS[kind](tmp_path / "right", OWN, True, without)
    _, found = prepared(tmp_path / "out", kind, "--source", source)
    assert found["val"] == {str(OWN[synset]): 2 for synset in SYNSETS if synset not in without}


@pytest.mark.parametrize("kind", ["parquet", "webdataset"])
def test_numbers_of_val_that_train_lacks_or_that_begin_at_1_are_refused(kind, tmp_path, capsys):
    arguments = [kind, "--out", tmp_path / "none", "--source"]
    refused(
        "val has numeric labels such as 3, that train lacks", *arguments, WRITERS[kind](tmp_path / "1", FROM_1, False)
    )
    source = WRITERS[kind](tmp_path / "2", FROM_1, False, SYNSETS[2:])
    refused("val has numeric labels from 1 to 2, but train from 0", *arguments, source)
    listed = tmp_path / "classes.txt"
    listed.write_text("cat\nant\nbee")
    source = WRITERS[kind](tmp_path / "3", OWN, False, SYNSETS[:1])
    _, found = prepared(tmp_path / "out", kind, "--source", source, "--classes", listed)
    assert found["val"] == {"ant": 2, "bee": 2}
    assert "note: val has no image with label 0 (cat" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["parquet", "webdataset"])
def test_a_list_of_numbers_in_another_order_is_refused_where_labels_are_numbers(kind, tmp_path):
    source = WRITERS[kind](tmp_path / "set", OWN, False)
    (tmp_path / "classes.txt").write_text("2\n0\n1")
    arguments = [kind, "--source", source, "--classes", tmp_path / "classes.txt", "--out", tmp_path / "out"]
    refused("the label 2 may mean the class of this name or the class in line 3", *arguments)


def test_one_image_with_another_label_among_many_is_not_refused(tmp_path):
    rows = [(f"{synset}_{n}.JPEG", PICTURE, OWN[synset]) for synset in SYNSETS for n in range(10)]
    write_parquet(tmp_path / "train.parquet", rows)
    write_parquet(tmp_path / "val.parquet", [(*rows[0][:2], 1), *rows[1:]])
    _, found = prepared(tmp_path / "out", "parquet", "--source", tmp_path)
    assert found["val"] == {"0": 9, "1": 11, "2": 10}


def test_classes_that_are_not_synsets_are_not_compared(tmp_path):
    """For example real and generated images of the same synsets."""
    for split, places in (("train", (0, 1)), ("val", (1, 0))):
        rows = [
            (f"{synset}_{place}.JPEG", PICTURE, (place + number) % 2)
            for number, synset in enumerate(SYNSETS)
            for place in places
        ]
        write_parquet(tmp_path / f"{split}.parquet", rows)
    _, found = prepared(tmp_path / "out", "parquet", "--source", tmp_path)
    assert found["val"] == {"0": 3, "1": 3}
