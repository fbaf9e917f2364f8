"""The held-out split depends only on file names, has a fraction of each class, and is stable when images are added."""

import shutil

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from focalnet_jax.config import default_config
from focalnet_jax.data.held_out import open_split
from focalnet_jax.data.source import check_examples
from focalnet_jax.errors import UserError


def write(folder, **counts):
    for name, count in counts.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            Image.new("RGB", (4, 4), (index % 256, 0, 0)).save(folder / name / f"{index}.png")
    return folder


def data(path, **changed):
    section = ConfigDict(default_config().data.to_dict())
    section.update({"source": "folder", "path": str(path), "held_out": 0.2, **changed})
    return section


def files(source, root):
    return {source.name(index).removeprefix(f"{root}/").removeprefix("train/") for index in range(len(source))}


def split(path, **changed):
    section = data(path, **changed)
    return [files(open_split(section, name), path) for name in ("train", "val")]


def test_every_image_is_in_one_split_and_about_the_fraction_is_held_out(tmp_path):
    write(tmp_path, cat=200, dog=100)
    train, val = split(tmp_path)
    assert len(train | val) == 300
    assert not train & val
    assert 40 <= len(val) <= 80
    for name, count in (("cat", 200), ("dog", 100)):
        assert abs(sum(file.startswith(name) for file in val) / count - 0.2) < 0.1


def test_the_split_is_the_same_with_a_train_folder_or_without_and_elsewhere(tmp_path):
    write(tmp_path / "a", cat=30, dog=30)
    write(tmp_path / "b" / "train", cat=30, dog=30)
    shutil.copytree(tmp_path / "a", tmp_path / "else" / "where")
    assert split(tmp_path / "a") == split(tmp_path / "b") == split(tmp_path / "else" / "where")


def test_more_images_move_none_of_those_that_are_there(tmp_path):
    write(tmp_path, cat=60, dog=60)
    before = split(tmp_path)
    write(tmp_path, cat=90, dog=61, bird=20)
    after = split(tmp_path)
    assert before[0] <= after[0]
    assert before[1] <= after[1]


def test_one_of_each_class_is_held_out_and_one_is_kept(tmp_path):
    write(tmp_path, alone=1, two=2, three=3, many=12)
    for share in (0.001, 0.2, 0.999):
        train, val = split(tmp_path, held_out=share)
        counts = {
            name: [sum(file.startswith(f"{name}/") for file in part) for part in (train, val)]
            for name in ("alone", "two", "three", "many")
        }
        assert counts["alone"] == [1, 0]
        assert counts["two"] == [1, 1]
        assert all(min(counts[name]) >= 1 for name in ("three", "many"))


def test_labels_mean_the_same_in_both(tmp_path):
    write(tmp_path, alone=1, cat=20, dog=30)
    train, val = (open_split(data(tmp_path), name) for name in ("train", "val"))
    assert train.class_names == val.class_names == ("alone", "cat", "dog")
    for source in (train, val):
        labels = [source[index][1] for index in range(len(source))]
        assert [source.class_names[label] for label in labels] == [
            source.name(index).split("/")[-2] for index in range(len(source))
        ]
        np.testing.assert_array_equal(source.labels, labels)
    assert train.fingerprint != val.fingerprint
    assert f"{len(val)} of 51 images are held out" in val.description


def test_a_val_folder_is_taken_as_it_is(tmp_path):
    write(tmp_path / "train", cat=20, dog=20)
    write(tmp_path / "val", cat=3, dog=2)
    train, val = split(tmp_path)
    assert (len(train), len(val)) == (40, 5)


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (["Training", "Validation"], "neither train nor val"),
        (["train_images", "test"], "train_split"),
        (["train", "validation"], "data.eval_split=validation"),
        (["train", "Val"], "data.eval_split=Val"),
        (["train", "test", "valid"], "data.eval_split=valid,"),
        (["train/cat"], "one image in each class"),
        (["cat"], "one image in each class"),
    ],
)
def test_splits_do_not_become_classes_and_nothing_is_no_split(tmp_path, folders, message):
    for folder in folders:
        parts = folder.split("/")
        if len(parts) == 1 and folder != "cat":
            write(tmp_path / folder, cat=3, dog=3)
        else:
            write(tmp_path.joinpath(*parts[:-1]), **{parts[-1]: 1})
    with pytest.raises(UserError) as caught:
        open_split(data(tmp_path), "val")
    assert message in str(caught.value)


def test_a_class_folder_without_images_is_no_class_to_train(tmp_path):
    write(tmp_path, cat=5, dog=0, horse=5)
    with pytest.raises(UserError, match=r"class folder .*dog contains no images; it is empty"):
        check_examples(open_split(data(tmp_path), "train"))


def test_a_mistyped_split_is_no_split_of_the_training_images(tmp_path):
    for name in ("train", "test"):
        write(tmp_path / name, cat=3, dog=3)
    with pytest.raises(UserError, match=r"data\.eval_split=test"):
        open_split(data(tmp_path, eval_split="tset"), "tset")
    assert "test is not used" in open_split(data(tmp_path), "val").description


def test_without_a_fraction_nothing_is_held_out(tmp_path):
    write(tmp_path / "train", cat=20, dog=20)
    with pytest.raises(UserError, match="no split 'val'"):
        open_split(data(tmp_path, held_out=0.0), "val")
