"""Files and folders that cannot be read or have an unexpected type are one-line errors and never left out."""

import errno
import io
import os

import pytest

from focalnet_jax.data.listing import list_images
from focalnet_jax.data.prepare.containers import Container
from focalnet_jax.data.prepare.indexing import index_container
from focalnet_jax.data.tfds_source import TfdsSource
from focalnet_jax.errors import RunFailedError, UserError
from tests.data.layouts import write_folder, write_parquet
from tests.data.pictures import picture
from tests.data.preparing import in_process, prepared, refused, write_tar  # noqa: F401

pytestmark = pytest.mark.usefixtures("in_process")
CLASSES = {f"{name}/{number}.jpg": picture(number) for name in "ab" for number in range(2)}


@pytest.fixture
def fails(monkeypatch):
    """Makes a call of the operating system fail for a path. File permissions have no effect for root."""

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


def test_what_is_not_a_regular_file_is_counted_and_not_read(tmp_path):
    write_folder(tmp_path / "set", CLASSES)
    os.mkfifo(tmp_path / "set/a/pipe.jpg")
    card, _ = prepared(tmp_path / "out", "imagefolder", "--source", tmp_path / "set")
    assert (card["files"], card["left_out"]) == (len(CLASSES) + 1, {"not a regular file": 1})
    os.mkfifo(tmp_path / "set/c.tar")
    out = ["--out", tmp_path / "again"]
    refused("set/c.tar: it is not a regular file", "imagefolder", "--source", tmp_path / "set", *out)
    os.mkfifo(tmp_path / "train.parquet")
    refused("not a regular file", "parquet", "--source", tmp_path, *out)


@pytest.mark.parametrize("kind", ["imagefolder", "webdataset", "parquet", "imagenet1k", "imagenet22k", "tfrecord"])
def test_a_source_that_is_neither_file_nor_folder_is_refused(kind, tmp_path):
    os.mkfifo(tmp_path / "pipe.tar")
    for path in ("/dev/null", tmp_path / "pipe.tar"):
        refused(f"--source {path} is neither a file nor a folder", kind, "--source", path, "--out", tmp_path / "out")


def test_relative_and_absolute_sources_may_be_mixed(tmp_path, monkeypatch):
    write_folder(tmp_path / "one/train", CLASSES)
    write_folder(tmp_path / "two/train", {"c/1.jpg": picture(5)})
    monkeypatch.chdir(tmp_path)
    _, found = prepared(tmp_path / "out", "imagefolder", "--source", "one", tmp_path / "two")
    assert found == {"train": {"a": 2, "b": 2, "c": 1}}


def test_an_error_of_a_source_does_not_blame_the_output(tmp_path, monkeypatch):
    write_folder(tmp_path / "set", CLASSES)
    path = tmp_path / "set/a"

    def fail(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    monkeypatch.setattr("focalnet_jax.data.prepare.preparation._index_all", fail)
    arguments = ["imagefolder", "--source", tmp_path / "set", "--out", tmp_path / "out"]
    refused(f"cannot read {path}: Input/output error", *arguments)


def test_an_error_of_the_output_names_it(fails, tmp_path):
    write_folder(tmp_path / "set", CLASSES)
    fails("mkdir", tmp_path / "out", errno.EROFS)
    arguments = ["imagefolder", "--source", tmp_path / "set", "--out", tmp_path / "out"]
    refused(f"cannot write to {tmp_path / 'out/images/1.0.0'}: Read-only file system", *arguments)


@pytest.mark.parametrize("call", ["seek", "read"])
def test_an_error_of_the_disk_in_a_tar_is_of_the_tar(call, tmp_path, monkeypatch):
    path = write_tar(tmp_path / "set.tar", CLASSES)

    class Failing(io.FileIO):
        def fail(self, *_):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    setattr(Failing, call, Failing.fail)
    monkeypatch.setattr("focalnet_jax.data.prepare.containers.open", Failing, raising=False)
    container = Container(str(path), size=path.stat().st_size)
    with pytest.raises(UserError, match=f"cannot read {path}: Input/output error"):
        index_container(container)


def test_a_folder_that_another_program_filled_does_not_hide_the_error(tmp_path, monkeypatch):
    write_folder(tmp_path / "set", CLASSES)
    arguments = ["--source", tmp_path / "set", "--out", tmp_path / "out"]

    def fails(*_):
        (tmp_path / "out/images/of another program").write_text("x")
        raise UserError("the mistake")

    monkeypatch.setattr("focalnet_jax.data.prepare.preparation._index_all", fails)
    refused("the mistake", "imagefolder", *arguments)


@pytest.mark.parametrize("content", ["", "{", "[1]", "null", "{}", '{"fingerprint": 3, "asked": 4}', '{"asked": []}'])
def test_a_damaged_card_is_an_error_in_one_line(content, tmp_path):
    write_folder(tmp_path / "set", CLASSES)
    prepared(tmp_path / "out", "imagefolder", "--source", tmp_path / "set")
    card = tmp_path / "out/images/1.0.0/card.json"
    card.write_text(content)
    told = f"{card} is damaged: copy it again, or remove it and prepare the data again"
    refused(told, "imagefolder", "--source", tmp_path / "set", "--out", tmp_path / "out")
    with pytest.raises(UserError) as caught:
        TfdsSource(str(tmp_path / "out"), "train")
    assert str(caught.value) == told
    card.unlink()
    prepared(tmp_path / "out", "imagefolder", "--source", tmp_path / "set")
    assert len(TfdsSource(str(tmp_path / "out"), "train")) == len(CLASSES)


@pytest.mark.parametrize("size", ["inf", "1e308", "nan", "0"])
def test_a_size_of_shards_that_is_not_a_number_of_bytes_is_refused(size, tmp_path):
    write_folder(tmp_path / "set", CLASSES)
    arguments = ["--source", tmp_path / "set", "--out", tmp_path / "out", "--shard-mb", size]
    refused("expected positive finite numbers", "imagefolder", *arguments)


def test_a_folder_whose_type_cannot_be_read_is_an_error(fails, tmp_path):
    write_folder(tmp_path, {"cat/old/1.jpg": b"x"})
    fails("stat", tmp_path / "cat/old", errno.EACCES)  # as in a folder with mode 444
    with pytest.raises(UserError, match="cat/old: Permission denied; make it readable"):
        list_images(tmp_path / "cat")
