"""Sources hold what they say; folders that cannot be trained on are refused, each with its reason."""

import numpy as np
import pytest
from PIL import Image

from focalnet_jax.data.sources import DigitsSource, FolderSource, check_labels, check_same_classes, open_source
from focalnet_jax.errors import UserError


@pytest.fixture
def folder(tmp_path):
    for split, count in (("train", 3), ("val", 2)):
        for name, colour in (("blue", (0, 0, 255)), ("red", (255, 0, 0))):
            (tmp_path / split / name / "more").mkdir(parents=True)
            for index in range(count):
                below = "more" if index else "."
                Image.new("RGB", (9, 9), colour).save(tmp_path / split / name / below / f"{index}.png")
    return tmp_path


def test_digits_are_split_into_disjoint_stratified_parts():
    train, held_out = DigitsSource("train"), DigitsSource("val")
    assert (len(train), len(held_out)) == (1347, 450)
    labels = [[source[index][1] for index in range(len(source))] for source in (train, held_out)]
    shares = [np.bincount(part) / len(part) for part in labels]
    np.testing.assert_allclose(shares[0], shares[1], atol=0.002)
    image, _ = train[0]
    assert image.shape == (8, 8, 3)
    assert image.max() == 255


def test_a_folder_is_read_in_sorted_order_whatever_lies_around(folder):
    (folder / "train" / "notes.txt").write_text("not a class")
    (folder / "train" / "red" / "notes.txt").write_text("not an image")
    (folder / "train" / ".cache").mkdir()
    (folder / "train" / "red" / "._0.png").write_bytes(b"what macOS leaves behind")
    source = FolderSource(str(folder), "train")
    assert source.class_names == ("blue", "red")
    assert [source[index][1] for index in range(len(source))] == [0, 0, 0, 1, 1, 1]


def refuse(told, path, split="train"):
    with pytest.raises(UserError) as caught:
        open_source("folder", path, split)
    assert told in str(caught.value)


@pytest.mark.fault(36)
@pytest.mark.fault(38)
def test_folders_that_cannot_be_trained_on_are_refused(folder):
    refuse("needs data.path", None)
    refuse("is not a directory", str(folder / "nowhere"))
    refuse("no split 'test'; it holds train, val", str(folder), "test")
    (folder / "empty").mkdir()
    refuse("no class folders", str(folder), "empty")
    (folder / "train" / "green").mkdir()
    refuse("green holds no images", str(folder))


def test_an_unknown_source_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match="digits or folder"):
        open_source("didgits", None, "train")


@pytest.mark.fault(37)
def test_splits_must_agree_about_classes_and_fit_the_classifier(folder):
    train, held_out = (FolderSource(str(folder), split) for split in ("train", "val"))
    check_same_classes(train.class_names, "training", held_out.class_names, "evaluation")
    check_labels(train, 2)
    with pytest.raises(UserError, match=r"num_classes=2"):
        check_labels(train, 1)
    (folder / "val" / "blue").rename(folder / "val" / "cyan")
    with pytest.raises(UserError, match="blue, cyan"):
        check_same_classes(train.class_names, "a", FolderSource(str(folder), "val").class_names, "b")
    with pytest.raises(UserError, match="their order"):
        check_same_classes(("x", "y"), "a", ("y", "x"), "b")
