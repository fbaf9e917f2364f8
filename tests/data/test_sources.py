"""Sources hold what they say."""

from pathlib import Path

import numpy as np
import pytest

from focalnet_jax.data.sources import DigitsSource, FolderSource, open_source
from focalnet_jax.errors import UserError
from tests.data.pictures import write_colours, write_pictures


def test_digits_are_split_into_disjoint_stratified_parts():
    train, held_out = DigitsSource("train"), DigitsSource("val")
    assert (len(train), len(held_out)) == (1347, 450)
    counts = [np.bincount([source[index][1] for index in range(len(source))]) for source in (train, held_out)]
    assert (np.abs(counts[1] - (counts[0] + counts[1]) / 4) < 1).all()  # a quarter of each class
    image, _ = train[0]
    assert image.shape == (8, 8, 3)
    assert image.max() == 255


def test_the_digits_are_those_that_scikit_learn_reads():
    from sklearn.datasets import load_digits

    digits = load_digits()
    for label in range(10):
        of_class = [
            [image[..., 0] for image, label_of in (source[i] for i in range(len(source))) if label_of == label]
            for source in (DigitsSource("val"), DigitsSource("train"))
        ]
        expected = np.round(digits.images[digits.target == label] * (255 / 16)).astype(np.uint8)
        np.testing.assert_array_equal(
            sorted(image.tobytes() for part in of_class for image in part), sorted(each.tobytes() for each in expected)
        )


def test_a_folder_is_read_in_sorted_order_whatever_lies_around(tmp_path):
    write_colours(tmp_path)
    (tmp_path / "train" / "notes.txt").write_text("not a class")
    (tmp_path / "train" / "red" / "notes.txt").write_text("not an image")
    (tmp_path / "train" / ".cache").mkdir()
    (tmp_path / "train" / "red" / "._0.png").write_bytes(b"what macOS leaves behind")
    source = FolderSource(str(tmp_path), "train")
    assert source.class_names == ("blue", "red")
    assert [source[index][1] for index in range(len(source))] == [0, 0, 0, 1, 1, 1]


def test_an_unknown_source_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match="digits or folder"):
        open_source("didgits", None, "train")


def test_the_data_is_part_of_the_fingerprint(tmp_path):
    write_pictures(tmp_path)
    source = FolderSource(str(tmp_path), "train")
    assert source.fingerprint == FolderSource(str(tmp_path), "train").fingerprint
    assert source.fingerprint != FolderSource(str(tmp_path), "val").fingerprint
    assert Path(source.name(5)).name == "n01440764_5.JPEG"
