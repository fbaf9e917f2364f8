"""Copies of folders in buckets: every byte is downloaded once per host, verified, and resumed after a kill."""

import json
import os
import pickle
import subprocess
import sys
import time

from focalnet_jax.storage import download
from focalnet_jax.storage.address import to_path
from focalnet_jax.storage.cached import CachedFolder
from tests.storage.copies import BLOCK, FILES, copied, opened

# Copies a folder with small requests, each of which is logged and takes a while.
PROGRAM = """
import json, sys, time
from focalnet_jax.storage import download
from focalnet_jax.storage.address import to_path
from focalnet_jax.storage.cached import cached_folder

address, cache, log, pause = sys.argv[1:]
read = download.read_range

def logged(path, start, end):
    time.sleep(float(pause))
    content = read(path, start, end)
    with open(log, "a") as file:
        file.write(json.dumps([path.name, start, end]) + "\\n")
    return content

download.read_range, download.BLOCK = logged, 1000
copy = cached_folder(to_path(address), cache, "data.cache")
names = copy.list()
copy.need(dict.fromkeys(names, 1))
copy.fetch(names)
"""


def program(server, folder, cache, log, pause):
    arguments = [sys.executable, "-c", PROGRAM, f"gs://bucket/{folder}", cache, log, pause]
    return subprocess.Popen(list(map(str, arguments)), env=server.environment, stderr=subprocess.PIPE, text=True)


def ranges(log):
    return [tuple(json.loads(line)) for line in log.read_text().splitlines()] if log.exists() else []


def test_a_file_is_downloaded_once_and_again_after_it_was_replaced_or_changed(folder, here, requested, tmp_path):
    assert copied(folder, tmp_path) == FILES
    assert len(requested) == len(set(requested)) == 6 * 10 + 1
    requested.clear()
    assert copied(folder, tmp_path) == FILES
    assert not requested
    here.write(f"{folder}/part-3", FILES["part-4"])  # of the same size
    assert copied(folder, tmp_path) == FILES | {"part-3": FILES["part-4"]}
    assert {name for name, *_ in requested} == {"part-3"}
    requested.clear()
    copy, _ = opened(folder, tmp_path)
    (copy.folder / "part-0").write_bytes(FILES["part-1"])
    (copy.folder / "part-1").unlink()
    os.utime(copy.folder / "part-2")  # its content is as before
    assert copied(folder, tmp_path) == FILES | {"part-3": FILES["part-4"]}
    assert {name for name, *_ in requested} == {"part-0", "part-1"}


def test_a_killed_download_resumes_at_its_bytes(folder, here, tmp_path):
    log, cache = tmp_path / "log", tmp_path / "cache"
    process = program(here, folder, cache, log, 0.05)
    while len(ranges(log)) < 20:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.kill()
    process.communicate()
    before, there = ranges(log), sum(path.stat().st_size for path in cache.rglob("*.part"))
    assert there > 0
    process = program(here, folder, cache, log, 0)
    assert process.wait(60) == 0, process.communicate()
    whole = {name: content for name, content in FILES.items() if name.startswith("part")}
    copy, _ = opened(folder, cache)
    assert {name: (copy.folder / name).read_bytes() for name in FILES} == FILES
    after = ranges(log)[len(before) :]
    # A request that the kill interrupted, of each thread, is repeated; all other bytes arrive once.
    repeated = sum(end - start for _, start, end in before + after) - sum(map(len, whole.values())) - 1
    assert 0 <= repeated <= 8 * BLOCK
    assert sum(end - start for _, start, end in after) < 6 * 9_500 - there + 1 + 1


def test_two_processes_of_a_host_download_each_file_once(folder, here, tmp_path):
    logs, cache = [tmp_path / "one", tmp_path / "two"], tmp_path / "cache"
    processes = [program(here, folder, cache, log, 0.01) for log in logs]
    for process in processes:
        assert process.wait(60) == 0, process.communicate()
    found = [each for log in logs for each in ranges(log)]
    assert len(found) == len(set(found)) == 6 * 10 + 1


def test_if_the_downloading_process_dies_another_one_continues(folder, here, tmp_path):
    logs, cache = [tmp_path / "one", tmp_path / "two"], tmp_path / "cache"
    first = program(here, folder, cache, logs[0], 0.3)
    while not ranges(logs[0]):
        assert first.poll() is None, first.communicate()
        time.sleep(0.01)
    second = program(here, folder, cache, logs[1], 0)
    time.sleep(1.0)
    assert not ranges(logs[1])
    first.kill()
    first.communicate()
    assert second.wait(60) == 0, second.communicate()
    assert ranges(logs[1])


def test_a_read_goes_to_the_front_of_the_queue(folder, requested, tmp_path, monkeypatch):
    monkeypatch.setattr("focalnet_jax.storage.downloader.THREADS", 1)
    read = download.read_range

    def slow(path, start, end):
        time.sleep(0.01)
        return read(path, start, end)

    monkeypatch.setattr(download, "read_range", slow)
    copy, names = opened(folder, tmp_path)
    copy.need(dict.fromkeys(names, 1))
    assert copy.path("part-5").read_bytes() == FILES["part-5"]
    assert [name for name in names if (copy.folder / name).exists()] != names
    copy.fetch(names)


def test_a_copy_sent_to_another_process_waits_for_files_and_requests_them(folder, tmp_path):
    copy, names = opened(folder, tmp_path)
    sent = pickle.loads(pickle.dumps(copy))
    copy.need(dict.fromkeys(names, 1))
    assert sent.path("part-4").read_bytes() == FILES["part-4"]
    alone = pickle.loads(pickle.dumps(CachedFolder(to_path(f"gs://bucket/{folder}"), tmp_path / "other", "data.cache")))
    alone.list()
    assert alone.path("part-4").read_bytes() == FILES["part-4"]  # nobody else downloads


def test_files_that_left_the_bucket_leave_the_copy(folder, here, tmp_path):
    copy, names = opened(folder, tmp_path)
    copy.fetch_all()
    here.delete(f"{folder}/part-0")
    copy, _ = opened(folder, tmp_path)
    found = copy.fetch_all()
    assert {path.relative_to(found).as_posix() for path in found.rglob("*") if path.is_file()} == {*names} - {"part-0"}


def test_names_may_have_any_characters(here, tmp_path):
    names = ["a [1].jpg", "b#2.jpg", "c?.jpg", "d%20.jpg", "e\u00fc.jpg", " f .jpg", "g*.jpg", "h\\.jpg", "i+&=.jpg"]
    for name in names:
        here.write(f"cached/odd/{name}", name.encode())
    copy = CachedFolder(to_path("gs://bucket/cached/odd"), tmp_path, "data.cache")
    assert {path.name: path.read_text() for path in copy.fetch_all().iterdir()} == {name: name for name in names}


def test_progress_names_files_bytes_and_images(folder, tmp_path, capsys):
    copied(folder, tmp_path)
    printed = ""
    # The files are usable before the line about the last one is printed; threads of other tests may print lines too.
    for _ in range(600):
        printed += capsys.readouterr().err
        _, _, later = printed.partition(f"8 files, 0.1 MB, of gs://bucket/{folder} to copy to")
        if any("8 of 8 files" in line and "images/s, complete in" in line for line in later.splitlines()):
            return
        time.sleep(0.1)
    raise AssertionError(printed)
