"""Files and folders that cannot be read, or are of an unexpected type, are named in one line and never left out."""

import errno
import os

import pytest

from focalnet_jax.data.listing import list_images
from focalnet_jax.errors import RunFailedError, UserError
from tests.data.layouts import write_folder, write_parquet
from tests.data.pictures import picture
from tests.data.preparing import in_process, prepared, refused  # noqa: F401

pytestmark = pytest.mark.usefixtures("in_process")
CLASSES = {f"{name}/{number}.jpg": picture(number) for name in "ab" for number in range(2)}


@pytest.fixture
def fails(monkeypatch):
    """Makes a call of the operating system fail for a path, which file permissions do not do for root."""

    def fail(call, path, code):
        original = getattr(os, call)

        def replaced(target=".", *arguments, **options):
            if str(target) == str(path):
                raise OSError(code, os.strerror(code), str(path))
            return original(target, *arguments, **options)

        monkeypatch.setattr(os, call, replaced)

    return fail


def test_a_hidden_folder_that_cannot_be_listed_is_left_out(fails, tmp_path):
    write_folder(tmp_path / "set", CLASSES | {"a/lost+found/9.jpg": picture(9)})
    fails("scandir", tmp_path / "set/a/lost+found", errno.EACCES)
    card, _ = prepared(tmp_path / "out", "imagefolder", "--source", tmp_path / "set")
    assert card["files"] == len(CLASSES)


@pytest.mark.parametrize(("code", "error"), [(errno.EACCES, UserError), (errno.EIO, RunFailedError)])
def test_a_folder_in_a_class_that_cannot_be_listed_is_an_error(code, error, fails, tmp_path):
    write_folder(tmp_path / "set", CLASSES | {"a/more/9.jpg": picture(9)})
    fails("scandir", tmp_path / "set/a/more", code)
    arguments = ["imagefolder", "--source", tmp_path / "set", "--out", tmp_path / "out"]
    with pytest.raises(error, match=r"cannot list .*set/a/more"):
        prepared(tmp_path / "out", *arguments[:3])


def test_a_folder_of_shards_that_cannot_be_listed_is_an_error(fails, tmp_path):
    for split in ("train", "val"):
        write_parquet(tmp_path / "set" / split / "0.parquet", [("a.jpg", picture(1), 0)])
    fails("scandir", tmp_path / "set/train", errno.EACCES)
    refused("set/train: Permission denied", "parquet", "--source", tmp_path / "set", "--out", tmp_path / "out")


def test_links_to_folders_and_files_of_parquet_are_followed(tmp_path):
    for number, split in enumerate(("train", "val")):
        write_parquet(tmp_path / "elsewhere" / f"{split}.parquet", [("a.jpg", picture(number), 0)])
        (tmp_path / "set" / split).mkdir(parents=True)
        (tmp_path / "set" / split / "0.parquet").symlink_to(tmp_path / "elsewhere" / f"{split}.parquet")
    (tmp_path / "set/train").rename(tmp_path / "train")
    (tmp_path / "set/train").symlink_to(tmp_path / "train")
    _, found = prepared(tmp_path / "out", "parquet", "--source", tmp_path / "set")
    assert found == {"train": {"0": 1}, "val": {"0": 1}}
    (tmp_path / "elsewhere/train.parquet").unlink()
    refused("set/train/0.parquet: No such file", "parquet", "--source", tmp_path / "set", "--out", tmp_path / "again")


def test_a_folder_whose_type_cannot_be_read_is_an_error(fails, tmp_path):
    write_folder(tmp_path, {"cat/old/1.jpg": b"x"})
    fails("stat", tmp_path / "cat/old", errno.EACCES)  # as in a folder of mode 444
    with pytest.raises(UserError, match="cat/old: Permission denied; make it readable"):
        list_images(tmp_path / "cat")
