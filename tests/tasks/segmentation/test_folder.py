"""Images and masks in folders are matched by name; a missing or ambiguous file is a one-line error."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from focalnet_jax.data.masks import decode_pair
from focalnet_jax.errors import UserError
from focalnet_jax.tasks.segmentation.sources import open_segmentation_source
from tests.data.masks import grey_png, write_pairs
from tests.data.pictures import encoded


def opened(path, split="train", **keys):
    data = {
        "source": "folder",
        "path": path and str(path),
        "cache": "unused",
        "train_split": "train",
        "classes": None,
    } | keys
    return open_segmentation_source(ConfigDict(data), split)


@pytest.fixture
def root(tmp_path):
    (tmp_path / "classes.txt").write_text("sky\nroad\ncar\n")
    return write_pairs(tmp_path)


@pytest.mark.parametrize("masks", ["masks", "annotations"])
def test_images_and_masks_are_matched_by_their_paths_without_suffix(tmp_path, masks, capsys):
    (tmp_path / "classes.txt").write_text("sky\nroad\ncar\n")
    write_pairs(tmp_path, masks=masks)
    for kind, suffix in (("images", ".jpg"), (masks, ".png")):
        (tmp_path / kind / "train/deep/er").mkdir(parents=True)
        (tmp_path / kind / f"train/3{suffix}").rename(tmp_path / kind / f"train/deep/er/3{suffix}")
    source = opened(tmp_path)
    assert (len(source), source.class_names, source.palette) == (6, ("sky", "road", "car"), None)
    names = [os.path.relpath(source.name(index), tmp_path) for index in range(6)]
    assert names == [f"images/train/{name}.jpg" for name in ("0", "1", "2", "4", "5", "deep/er/3")]
    for index, number in enumerate((0, 1, 2, 4, 5, 3)):
        image, mask = decode_pair(*source[index], source.coding)
        assert image.shape == (12, 16, 3)
        expected = np.random.default_rng(number).choice(np.array([0, 1, 2, 255], np.uint8), (12, 16))
        np.testing.assert_array_equal(mask, expected)
    assert capsys.readouterr().err == ""
    again = pickle.loads(pickle.dumps(source))
    assert (again.fingerprint, again[2]) == (source.fingerprint, source[2])


def test_the_fingerprint_depends_on_names_and_coding_but_not_on_the_path(root, tmp_path):
    first = opened(root).fingerprint
    moved = root.parent / f"{root.name}-moved"
    os.rename(root, moved)
    assert opened(moved).fingerprint == first
    (moved / "classes.txt").write_text("sky\nroad\ntruck\n")
    assert opened(moved).fingerprint != first


@pytest.mark.fault(55)
def test_files_without_a_partner_are_counted_in_training_and_refused_in_evaluation(root, capsys):
    for folder, name in (("masks", "0.png"), ("masks", "4.png"), ("images", "2.jpg")):
        (root / folder / "train" / name).unlink()
    (root / "images/train/notes.txt").write_text("x")
    assert len(opened(root)) == 3
    assert capsys.readouterr().err == (
        f"{root}/images/train: left out 2 images without a mask, such as 0.jpg; {root}/masks/train: left out 1 masks "
        f"without an image, such as 2.png; {root}/images/train: left out 1 file: 1 .txt\n"
    )
    with pytest.raises(
        UserError, match=r"2 of 5 images in .*images/train have no mask in .*masks/train, such as 0.jpg"
    ):
        opened(root, train_split="other")


def test_a_stem_is_the_whole_name_without_suffix(root):
    for path in sorted((root / "masks/train").iterdir()):
        path.rename(path.with_stem(f"{path.stem}_labelTrainIds"))
    with pytest.raises(
        UserError, match=r"no image in .*; there are 6 images, such as 0.jpg, and 6 masks, such as 0_lab"
    ):
        opened(root)


def remove(root, *names):
    for name in names:
        os.rename(root / name, root.parent / f"{root.name}-{name.replace('/', '-')}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: remove(root, "masks"), "has images but no masks; it contains images: expected images/SPLIT"),
        (lambda root: remove(root, "images"), "has no folder images; it contains masks: expected images/SPLIT"),
        (lambda root: remove(root, "masks/train"), "masks has no split 'train'; it contains no folders: set data"),
        (lambda root: os.rename(root / "images/train", root / "images/training"), "images has no split 'train'; it .*"
         "contains training: .* Did you mean 'training'"),
        (lambda root: write_pairs(root, masks="annotations"), "may both contain the masks"),
        (lambda root: (root / "images/train/1.png").write_bytes(b""), "contains 1.jpg and 1.png, and images and masks"),
        (lambda root: [path.unlink() for path in (root / "masks/train").iterdir()], "masks/train contains no images"),
        (lambda root: (root / "classes.txt").unlink(), r"names of the classes are unknown, because there is no .*class"
         r"es.txt and data.classes is not set. The first masks have labels 0 to 2: write the names of labels 0 to 2"),
    ],
)  # fmt: skip
@pytest.mark.fault(55)
def test_what_is_wrong_with_a_folder_is_one_line(root, change, message):
    change(root)
    with pytest.raises(UserError, match=message) as caught:
        opened(root)
    assert "\n" not in str(caught.value)


def test_a_wrong_path_is_one_line(root):
    with pytest.raises(UserError, match=r"none does not exist; expected a directory with images/SPLIT"):
        opened(root / "none")
    with pytest.raises(UserError, match=r"classes.txt is a file; expected a directory"):
        opened(root / "classes.txt")
    with pytest.raises(UserError, match=r"needs data.path"):
        opened(None)
    with pytest.raises(
        UserError, match=r"data.source='parquet' has no masks; expected digits, bluemarble, folder, tfds"
    ):
        opened(root, source="parquet")
    with pytest.raises(UserError, match=r"data.classes=x is not used with data.source=digits"):
        opened(None, source="digits", classes="x")


def test_colours_in_the_masks_are_named_if_there_is_no_list(root):
    for path in (root / "masks/train").iterdir():
        Image.fromarray(np.full((12, 16, 3), (9, int(path.stem) % 2, 7), np.uint8)).save(path)
    (root / "classes.txt").unlink()
    with pytest.raises(UserError, match=r"2 colours .such as 9 0 7, 9 1 7.: write one line NAME RED GREEN BLUE"):
        opened(root)
    (root / "list.txt").write_text("even 9 0 7\nodd 9 1 7\n")
    source = opened(root, classes=str(root / "list.txt"))
    assert [decode_pair(*source[index], source.coding)[1].max() for index in range(6)] == [0, 1] * 3
    np.testing.assert_array_equal(source.palette, [(9, 0, 7), (9, 1, 7)])


def test_masks_that_seem_to_have_another_coding_are_reported(root, capsys):
    for path in (root / "masks/train").iterdir():
        path.write_bytes(grey_png(np.eye(12, 16) * 255))
    opened(root)
    assert "the masks seem to contain only 0 and 255, but 255 means ignored; if 255 is a class, give grey colours" in (
        capsys.readouterr().err
    )
    (root / "classes.txt").write_text("background 0 0 0\nobject 255 255 255\n")
    source = opened(root)
    assert capsys.readouterr().err == ""
    np.testing.assert_array_equal(decode_pair(*source[0], source.coding)[1], np.eye(12, 16))


def test_masks_that_were_reduced_already_are_reported(root, capsys):
    opened(root, reduce_zero_label=True)
    err = capsys.readouterr().err
    assert (
        "the masks contain 255 but not the last label 3; if 0 is a class in them, set --config.data.reduce_zero" in err
    )
    opened(root, reduce_zero_label=False)
    assert capsys.readouterr().err == ""


def test_an_unreadable_mask_does_not_keep_a_folder_from_opening(root):
    (root / "masks/train/0.png").write_bytes(b"")
    (root / "masks/train/1.png").write_bytes(encoded(Image.new("L", (16, 12))))
    source = opened(root)
    for index, reason in ((0, "an empty file"), (1, "is a JPEG image")):
        with pytest.raises(UserError, match=f"its mask {root}/masks/train/{index}.png: .*{reason}"):
            decode_pair(*source[index], source.coding)
    Path(source[2][0]).unlink()
    with pytest.raises(UserError, match=r"No such file or directory"):
        decode_pair(*source[2], source.coding)
