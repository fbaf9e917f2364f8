"""Faults while data are read: unreadable images, dead and stalled reading processes."""

import errno
import io
import os
import signal
import time
import warnings
from collections import deque

import numpy as np
import psutil
import pytest
from PIL import Image

from focalnet_jax.data import decode
from focalnet_jax.data.digits_source import DigitsSource
from focalnet_jax.data.folder_source import FolderSource
from focalnet_jax.data.formats import FORMATS
from focalnet_jax.data.loader import HostPlaces, ReadOptions, eval_batches, train_batches
from focalnet_jax.data.substitutions import READABLE, Substitutions
from focalnet_jax.data.transforms import eval_transform, train_transform
from focalnet_jax.errors import RunFailedError, UserError
from focalnet_jax.tasks.classification.host import ClassificationHost
from tests.commands import SMALL, start
from tests.data.pictures import write_colours, write_pictures

HOST = ClassificationHost(train_transform(24, (0.3, 1.0), (3 / 4, 4 / 3), 0.5), eval_transform(24))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    write_pictures(root)
    broken = sorted((root / "train").glob("*/*"))[5]
    broken.write_bytes(broken.read_bytes()[:300])
    return root


@pytest.fixture(scope="module")
def source(folder):
    return FolderSource(str(folder), "train")


def read(source, steps=3, batch_size=8, **reading):
    options = ReadOptions(**{"threads": 2, **reading})
    return train_batches(source, HOST, batch_size=batch_size, seed=0, start_step=0, end_step=steps, reading=options)


@pytest.mark.fault(29)
def test_the_next_example_replaces_an_unreadable_one_wherever_it_is_read(source):
    whole = list(read(source))
    assert sum((batch["unreadable"] == 5).sum() for batch in whole) == 1  # once per epoch
    assert all(set(batch["unreadable"]) <= {5, READABLE} for batch in whole)
    labels = np.concatenate([batch["label"] for batch in whole])
    assert sorted(labels) == [0] * 8 + [1] * 8 + [2] * 8  # the next example has the same label here
    halves = [list(read(source, threads=0, host=HostPlaces(index, 2))) for index in range(2)]
    for batch, *parts in zip(whole, *halves, strict=True):
        for name in batch:
            np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), batch[name])


@pytest.mark.fault(29)
def test_unreadable_examples_are_counted_and_too_many_end_the_run(source, capsys):
    allowed = Substitutions(source, HOST, most=0.1)
    batches = list(allowed.counted(read(source, steps=6)))
    assert allowed.count == 2  # once per epoch
    assert not any("unreadable" in batch for batch in batches)
    output = capsys.readouterr().err
    assert output.count("cannot read image") == 1  # reported once
    assert "(it is a JPEG image that cannot be decoded: " in output
    with pytest.raises(UserError, match=r"n01440764_5.JPEG.*data.max_unreadable=0.01"):
        list(Substitutions(source, HOST, most=0.01).counted(read(source)))


def test_evaluation_ends_at_an_unreadable_picture(source):
    batches = eval_batches(source, HOST, batch_size=8, reading=ReadOptions(threads=2))
    with pytest.raises(UserError, match=r"cannot read image .*n01440764_5.JPEG"):
        list(batches)


def test_a_fault_of_the_machine_is_not_taken_for_one_of_the_picture(source, monkeypatch):
    def fails(*_, **__):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(decode, "open", fails, raising=False)
    with pytest.raises(RunFailedError, match=r"cannot read .*Too many open files"):
        list(read(source, threads=0))


def test_no_program_is_started_for_a_picture(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "picture.eps")  # Pillow would start Ghostscript
    with pytest.raises(UserError, match="a PostScript file"):
        decode.decode((tmp_path / "picture.eps").read_bytes())


@pytest.mark.parametrize("format", FORMATS)
def test_damaged_bytes_are_unreadable_whatever_they_were(format):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)).save(buffer, format)
    whole, rng = buffer.getvalue(), np.random.default_rng(1)
    refused = 0
    for _ in range(300):
        content = bytearray(whole)
        for place in rng.integers(0, len(whole), rng.integers(1, 20)):
            content[place] = rng.integers(256)
        with warnings.catch_warnings(action="ignore"):
            try:
                assert decode.decode(bytes(content)).shape[2] == 3
            except decode.UnreadableImageError:
                refused += 1
    assert refused


@pytest.mark.fault(30)
def test_a_folder_of_unreadable_images_is_refused(tmp_path):
    for index in range(12):
        path = tmp_path / "train" / "class" / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"a text file, not an image.*or the 9 images after it"):
        list(read(FolderSource(str(tmp_path), "train"), batch_size=4))


def test_too_many_unreadable_images_are_refused_with_their_type(tmp_path):
    write_colours(tmp_path)
    for name, content in (("0.png", b"<!DOCTYPE html>"), ("more/1.png", b""), ("more/2.png", b"<html>")):
        (tmp_path / "train" / "red" / name).write_bytes(content)
    source = FolderSource(str(tmp_path), "train")
    with pytest.raises(UserError, match="2 because it is an HTML page, not an image; 1 because it is an empty file"):
        list(Substitutions(source, HOST, most=0.1).counted(read(source, steps=1, batch_size=6)))


class LostStorage(DigitsSource):
    """A source whose reads fail."""

    def __getitem__(self, index):
        raise RunFailedError("cannot read 0: Input/output error")


@pytest.mark.parametrize("workers", [0, 1])
def test_lost_storage_is_no_death_of_a_reading_process(workers):
    with pytest.raises(RunFailedError, match=r"^cannot read 0: Input/output error"):
        next(read(LostStorage("train"), workers=workers))


@pytest.mark.parametrize("workers", [1, 3])
def test_reading_processes_change_nothing(source, workers):
    for ours, theirs in zip(read(source), read(source, workers=workers), strict=True):
        for name in ours:
            np.testing.assert_array_equal(ours[name], theirs[name])


def workers_of_this_process():
    return [child for child in psutil.Process().children(recursive=True) if "spawn_main" in " ".join(child.cmdline())]


@pytest.mark.fault(17)
def test_a_reading_process_that_dies_ends_the_run():
    before = {child.pid for child in workers_of_this_process()}
    stream = read(DigitsSource("train"), steps=50, workers=1, stall_seconds=60)
    next(stream)
    worker = next(child for child in workers_of_this_process() if child.pid not in before)
    worker.kill()
    with pytest.raises(RunFailedError, match="died"):
        deque(stream)


def test_a_reading_process_that_hangs_ends_the_run():
    before = {child.pid for child in workers_of_this_process()}
    stream = read(DigitsSource("train"), steps=50, workers=1, stall_seconds=30)
    next(stream)
    worker = next(child for child in workers_of_this_process() if child.pid not in before)
    os.kill(worker.pid, signal.SIGSTOP)
    begun = time.monotonic()
    try:
        with pytest.raises(RunFailedError, match="no batch was read for 30 s"):
            deque(stream)
    finally:
        worker.kill()
    assert time.monotonic() - begun < 55  # not twice the time limit


def test_memory_does_not_grow_over_many_batches():
    source = DigitsSource("train")

    def resident():
        return psutil.Process().memory_info().rss / 1e6

    stream = read(source, steps=3000, batch_size=16)
    for _ in range(500):
        next(stream)
    begun = resident()
    for _ in stream:
        pass
    assert resident() - begun < 30  # MB; a batch has 28 kB, all batches together would have 69 MB


@pytest.mark.fault(17)
def test_reading_processes_end_with_a_run_that_is_killed(tmp_path):
    arguments = [*SMALL, "--config.total_steps=1000000", "--config.data.workers=2", "--workdir", tmp_path]
    process = start("train.py", *arguments)
    assert any(line.startswith("first step") for line in process.stdout)
    readers = psutil.Process(process.pid).children(recursive=True)
    assert len(readers) >= 2
    process.kill()
    process.communicate(timeout=60)
    assert not psutil.wait_procs(readers, timeout=20)[1]
