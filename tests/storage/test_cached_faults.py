"""Errors of buckets, disks and contents end the readers of a copy with one line."""

import errno
import shutil
import threading
import time
from types import SimpleNamespace

import pytest

from focalnet_jax.errors import RunFailedError, UserError
from focalnet_jax.storage import cached, download
from focalnet_jax.storage.address import to_path
from focalnet_jax.storage.files import StorageError
from tests.storage.copies import FILES, copied, opened


@pytest.mark.parametrize("sha256", [True, False])
def test_a_damaged_object_is_downloaded_twice_and_is_an_error_for_its_readers_only(
    folder, requested, tmp_path, monkeypatch, sha256
):
    read = download.read_range

    def damaged(path, start, end):
        content = read(path, start, end)
        return bytes([content[0] ^ 1]) + content[1:] if path.name == "part-2" and not sha256 else content

    monkeypatch.setattr(download, "read_range", damaged)
    copy, names = opened(folder, tmp_path)
    if sha256:
        copy.expect({"part-2": "0" * 64})
    copy.need(dict.fromkeys(names, 1))
    with pytest.raises(UserError, match=r"part-2 is damaged: its content does not match .* upload it again"):
        copy.path("part-2")
    assert len([name for name, *_ in requested if name == "part-2"]) == 20
    for name in names:
        if name != "part-2":
            assert copy.path(name).read_bytes() == FILES[name]
    assert not (copy.folder / "part-2").exists()


def test_a_disk_that_is_too_small_is_refused_before_the_download(folder, requested, tmp_path, monkeypatch):
    monkeypatch.setattr(cached.shutil, "disk_usage", lambda path: SimpleNamespace(free=30_000))
    copy, names = opened(folder, tmp_path)
    with pytest.raises(UserError) as caught:
        copy.need(dict.fromkeys(names, 1))
    assert "needs 0.1 MB more in data.cache=" in str(caught.value)
    assert "only 0.0 MB free" in str(caught.value)
    assert "mount the bucket with gcsfuse" in str(caught.value)
    assert not requested
    copy, _ = opened(folder, tmp_path)
    copy.need({"part-0": 1, "part-1": 1})  # these fit
    copy.fetch(["part-0", "part-1"])


def test_the_disk_must_hold_all_data_of_a_process(folder, here, tmp_path, monkeypatch):
    def refused(path, start, end):
        time.sleep(1)
        raise StorageError(errno.EACCES, "no permission")

    monkeypatch.setattr(download, "read_range", refused)
    monkeypatch.setattr(cached.shutil, "disk_usage", lambda path: SimpleNamespace(free=50_000))
    here.write("cached/second/file", bytes(30_000))
    first = cached.cached_folder(to_path(f"gs://bucket/{folder}"), tmp_path, "data.cache")
    first.list()
    first.need({"part-0": 1, "part-1": 1, "part-2": 1})
    second = cached.cached_folder(to_path("gs://bucket/cached/second"), tmp_path, "data.cache")
    second.list()
    with pytest.raises(UserError, match=r"needs 0.0 MB more in data.cache=.*, in addition to 0.0 MB for other data"):
        second.need({"file": 1})


@pytest.mark.parametrize(
    ("raised", "kind", "message"),
    [
        (StorageError(errno.EACCES, "no permission (Forbidden)"), UserError, "part-0: no permission"),
        (FileNotFoundError("part-0"), UserError, "part-0 was deleted during the download"),
        (StorageError(errno.EIO, "Service Unavailable"), RunFailedError, r"nothing arrived for 1 s \(Service Unavail"),
        (OSError(errno.ENOSPC, "No space left on device"), RunFailedError, "No space left on device; free disk space"),
    ],
    ids=["permission", "deleted", "outage", "full"],
)
def test_an_error_of_the_bucket_or_the_disk_is_one_line(folder, here, tmp_path, monkeypatch, raised, kind, message):
    def failing(path, start, end):
        raise raised

    monkeypatch.setattr(download, "read_range", failing)
    monkeypatch.setattr(cached, "PATIENCE_SECONDS", 1.0)
    copy, _ = opened(folder, tmp_path)
    if isinstance(raised, FileNotFoundError):
        here.delete(f"{folder}/part-0")
    copy.need({"part-0": 1})
    with pytest.raises(kind, match=message) as caught:
        copy.path("part-0")
    assert "\n" not in str(caught.value)


def test_a_short_outage_is_waited_for_with_one_warning(folder, requested, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("focalnet_jax.storage.downloader._RETRY_SECONDS", 0.05)
    read, left = download.read_range, [5]
    lock = threading.Lock()

    def failing(path, start, end):
        with lock:
            left[0] -= 1
            if left[0] >= 0:
                raise StorageError(errno.EIO, "Service Unavailable")
        return read(path, start, end)

    monkeypatch.setattr(download, "read_range", failing)
    assert copied(folder, tmp_path) == FILES
    assert capsys.readouterr().err.count("(Service Unavailable); trying again") == 1


def test_an_object_replaced_during_the_download_is_an_error(folder, here, requested, tmp_path):
    copy, _ = opened(folder, tmp_path)
    here.write(f"{folder}/part-0", FILES["part-1"])
    copy.need({"part-0": 1})
    with pytest.raises(UserError, match="part-0 was replaced during the download; start again"):
        copy.path("part-0")


def test_a_name_that_leads_out_of_the_folder_is_an_error(folder, tmp_path, monkeypatch):
    listed = cached.objects(to_path(f"gs://bucket/{folder}"))
    monkeypatch.setattr(cached, "objects", lambda folder, recursive: listed | {"a/../../../x": listed["part-0"]})
    with pytest.raises(UserError, match="expected no empty part"):
        opened(folder, tmp_path)


def test_a_cache_that_cannot_be_written_is_an_error(folder, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write to data.cache=.*; set data.cache to a folder on a local disk"):
        opened(folder, tmp_path / "file")


def test_a_cache_deleted_during_the_download_is_an_error(folder, requested, tmp_path, monkeypatch):
    read = download.read_range

    def deleting(path, start, end):
        shutil.rmtree(tmp_path, ignore_errors=True)
        return read(path, start, end)

    monkeypatch.setattr(download, "read_range", deleting)
    copy, names = opened(folder, tmp_path)
    copy.need(dict.fromkeys(names, 1))
    with pytest.raises(UserError, match=r"data.cache=") as caught:
        copy.fetch(names)
    assert "\n" not in str(caught.value)
