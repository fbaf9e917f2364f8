"""Sources have the right examples and classes."""

import os
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from focalnet_jax.data.digits_source import DigitsSource
from focalnet_jax.data.folder_source import FolderSource
from focalnet_jax.data.formats import IMAGE_SUFFIXES
from focalnet_jax.data.sources import open_source
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


def test_a_folder_is_read_in_sorted_order_whatever_else_it_holds(tmp_path):
    write_colours(tmp_path)
    (tmp_path / "train" / "notes.txt").write_text("not a class")
    (tmp_path / "train" / "red" / "notes.txt").write_text("not an image")
    (tmp_path / "train" / ".cache").mkdir()
    (tmp_path / "train" / "red" / "._0.png").write_bytes(b"what macOS leaves behind")
    source = FolderSource(str(tmp_path), "train")
    assert source.class_names == ("blue", "red")
    assert [source[index][1] for index in range(len(source))] == [0, 0, 0, 1, 1, 1]


def put(root, *names, content=b"not looked at"):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


def files(source):
    return [
        str(Path(source.name(index)).relative_to(source.name(0).split("/train/")[0])) for index in range(len(source))
    ]


def test_every_suffix_of_a_format_that_is_decoded_is_read(tmp_path):
    named = [f"train/cat/{number}{suffix}" for number, suffix in enumerate(IMAGE_SUFFIXES)]
    capitals = [name.upper().replace("TRAIN/CAT", "train/cat") for name in named]
    same_stem = ["train/cat/same.jpg", "train/cat/same.png"]
    put(tmp_path, *named, *capitals, *same_stem)
    assert {".jfif", ".tif", ".avif", ".bmp", ".gif", ".ppm", ".jp2"} < set(IMAGE_SUFFIXES)
    assert set(files(FolderSource(str(tmp_path), "train"))) == {*named, *capitals, *same_stem}


def test_what_systems_and_tools_leave_behind_is_no_data(tmp_path, capsys):
    put(tmp_path, "train/cat/0.jpg", "train/cat/deep/1.jpg")
    kept = FolderSource(str(tmp_path), "train")
    for folder in (".ipynb_checkpoints", ".git", ".thumbnails", "__MACOSX", "@eaDir", "lost+found", ".Trash-1000"):
        put(tmp_path, f"train/{folder}/0.jpg", f"train/cat/{folder}/0.jpg", f"train/cat/deep/{folder}/more/0.png")
    put(tmp_path, "train/cat/._0.jpg", "train/cat/.DS_Store", "train/cat/Thumbs.db", "train/cat/desktop.ini")
    source = open_source("folder", str(tmp_path), "train")
    assert (source.class_names, files(source)) == (kept.class_names, files(kept))
    assert source.fingerprint == kept.fingerprint
    assert capsys.readouterr().err == ""


def test_the_fingerprint_of_files_that_were_always_read_stays(tmp_path):
    names = ("1.jpg", "deep/0.PNG", "2.webp", "x/y.jpeg")
    put(tmp_path, *(f"train/{label}/{name}" for label, name in product("ab", names)))
    assert FolderSource(str(tmp_path), "train").fingerprint == "c3981d643775"


def test_files_left_out_are_counted_by_kind(tmp_path, capsys):
    put(tmp_path, "train/cat/0.jpg", "train/dog/0.jpg", "train/dog/.hidden.jpg", "train/loose.jpg", "train/dog/raw")
    for label, number, suffix in product(("cat", "dog"), range(4), (".txt", ".HEIC")):
        put(tmp_path, f"train/{label}/{number}{suffix}")
    (tmp_path / "train/dog/gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    os.mkfifo(tmp_path / "train/dog/pipe.jpg")
    open_source("folder", str(tmp_path), "train")
    line = (
        f"{tmp_path}/train: left out 21 files: 8 .heic, 8 .txt, 1 .jpg outside the class folders, 1 hidden, "
        f"1 linked to a missing file (such as {tmp_path}/train/dog/gone.jpg), 1 not a regular file, 1 without a suffix"
    )
    assert capsys.readouterr().err == line + "\n"


def test_links_are_followed_once(tmp_path):
    put(tmp_path, "elsewhere/dog/0.jpg", "elsewhere/more/2.jpg", "elsewhere/1.jpg", "train/cat/real/0.jpg")
    train = tmp_path / "train"
    (train / "dog").symlink_to(tmp_path / "elsewhere/dog")
    (train / "cat/more").symlink_to("../../elsewhere/more")
    (train / "cat/1.jpg").symlink_to("../../elsewhere/1.jpg")
    (train / "cat/again").symlink_to("real")
    (train / "cat/loop").symlink_to("..")
    (train / "cat/real/self").symlink_to(".")
    source = FolderSource(str(tmp_path), "train")
    assert files(source) == ["train/cat/1.jpg", "train/cat/more/2.jpg", "train/cat/real/0.jpg", "train/dog/0.jpg"]


@pytest.mark.parametrize(
    ("held", "path", "message"),
    [
        (["up/train/cat/0.jpg"], ".", "it contains up: set data.path={root}/up, which has this split"),
        (["train/cat/0.jpg"], "train", "set data.path={root}, which has this split"),
        (["cat/0.jpg", "dog/0.jpg"], ".", "it contains cat, dog: if these are classes, --config.data.held_out=0.2 "),
        (["a/cat/0.jpg", "b/dog/0.jpg"], ".", "it contains a, b: create {root}/train, or set data.train_split"),
        (["val/0.jpg", "dog/0.jpg"], ".", "it contains dog, val: create {root}/train, or set"),
        (["train/cat/0.jpg"], "train/cat", "it contains 1 file: 1 .jpg: set data.path={root}, which has"),
        (["train/0.jpg", "train/1.png"], ".", "has no class folders; .*; it contains 2 files: 1 .jpg, 1 .png"),
        (["train/0.jpg", "car/0.jpg"], ".", "1 file: 1 .jpg. If train is a class, like car, rename {root}/train"),
        (["train/0.tar", "train/1.tar"], ".", "it contains 2 files: 2 .tar"),
        (["train/train/cat/0.jpg", "train/val/cat/0.jpg"], ".", "splits, not classes: set data.path={root}/train"),
        (["train/images/cat/0.jpg", "train/images/dog/0.jpg"], ".", "only the folder images, which .*.cat, dog"),
        (["train/cat/train/0.jpg", "train/cat/val/1.jpg", "train/dog/train/0.jpg"], ".", "train, val; .* CLASS/SPLIT"),
        (["train/cat/0.heic", "train/cat/1.HEIC"], ".", "cat contains no images; it contains 2 files: 2 .heic"),
        (["train/cat/a/0.svg"], ".", "class folder .* contains no images; it contains 1 file: 1 .svg"),
        (["0.jpg"], "0.jpg", "is a file"),
        (["0.jpg"], "~/pictures", "data.path=.*~/pictures does not exist"),
    ],
)  # fmt: skip
def test_a_folder_given_wrongly_is_refused_with_what_is_there(tmp_path, held, path, message):
    put(tmp_path, *held)
    with pytest.raises(UserError, match=message.format(root=tmp_path)):
        FolderSource(str(tmp_path / path), "train")


def test_names_and_links_that_make_classes_uncertain_are_refused(tmp_path):
    put(tmp_path, "train/cat/0.jpg")
    (tmp_path / "train/dog").symlink_to(tmp_path / "gone")
    with pytest.raises(UserError, match="train/dog is a link to a missing file or folder"):
        FolderSource(str(tmp_path), "train")
    (tmp_path / "train/dog").unlink()
    put(tmp_path, os.fsdecode(b"train/caf\xe9/0.jpg"))
    with pytest.raises(UserError, match="not printable UTF-8"):
        FolderSource(str(tmp_path), "train")


def test_files_may_have_names_of_any_bytes(tmp_path):
    put(tmp_path, os.fsdecode(b"train/cat/caf\xe9.jpg"), "train/cat/a b\n.jpg")
    assert len(FolderSource(str(tmp_path), "train")) == 2


def test_an_unknown_source_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match="expected one of digits, folder"):
        open_source("didgits", None, "train")


def test_the_data_is_part_of_the_fingerprint(tmp_path):
    write_pictures(tmp_path)
    source = FolderSource(str(tmp_path), "train")
    assert source.fingerprint == FolderSource(str(tmp_path), "train").fingerprint
    assert source.fingerprint != FolderSource(str(tmp_path), "val").fingerprint
    assert Path(source.name(5)).name == "n01440764_5.JPEG"


def test_a_copy_of_the_data_set_is_not_a_class(tmp_path):
    for name in ("daisy/1.jpg", "rose/2.jpg", "flowers/daisy/1.jpg", "flowers/rose/2.jpg"):
        (tmp_path / "train" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "train" / name).write_bytes(b"x")
    with pytest.raises(UserError, match=r"flowers seems to be a copy of the data set, .* such as daisy, rose"):
        FolderSource(str(tmp_path), "train")


def test_folders_named_after_splits_in_more_words_are_not_classes(tmp_path):
    for name in ("seg_train/a/1.jpg", "seg_test/a/2.jpg"):
        (tmp_path / "train" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "train" / name).write_bytes(b"x")
    with pytest.raises(UserError, match="contains seg_test, seg_train, which are splits, not classes"):
        FolderSource(str(tmp_path), "train")
