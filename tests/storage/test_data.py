"""Data in a bucket is trained on and evaluated as if it were on a disk."""

import importlib.util
import json
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from ml_collections import ConfigDict

from focalnet_jax.data import loader, prefetch
from focalnet_jax.data.decode import decode
from focalnet_jax.data.held_out import open_split
from focalnet_jax.data.sources import SourceOptions, open_source
from focalnet_jax.errors import RunFailedError, UserError
from focalnet_jax.storage import cached, download
from tests.commands import FOLDER, SMALL, assert_one_line_mistake, run
from tests.data.preparing import write_tar
from tests.storage.test_runs import rows

STEPS = [
    *SMALL,
    "--config.data.source=tfds",
    "--config.model.num_classes=2",
    "--config.batch_size=8",
    "--config.total_steps=6",
    "--config.schedule.warmup_steps=1",
    "--config.eval_every_steps=3",
]


def trained(workdir, *flags, env):
    done = run("train.py", *flags, "--workdir", workdir, env=env)
    assert done.returncode == 0, done.stderr
    return rows((workdir / "metrics.jsonl").read_bytes()), done


def test_a_run_computes_the_same_bits_as_from_a_disk(prepared, server, tmp_path):
    flags, env = [*STEPS, f"--config.data.cache={tmp_path / 'cache'}"], server.environment
    local, _ = trained(tmp_path / "local", *flags, f"--config.data.path={prepared}", env=env)
    flags.append("--config.data.path=gs://bucket/prepared")
    remote, done = trained(tmp_path / "remote", *flags, "--config.data.workers=1", env=env)
    assert remote == local
    assert "images/s, complete in" in done.stderr
    again, done = trained(tmp_path / "again", *flags, env=env)
    assert again == local
    assert not done.stderr  # nothing is downloaded


def test_a_folder_of_images_is_copied_and_trained_on(prepared, photos, server, tmp_path):
    flags = [*FOLDER, f"--config.data.cache={tmp_path / 'cache'}"]
    local, _ = trained(tmp_path / "local", *flags, f"--config.data.path={photos}", env=server.environment)
    flags.append("--config.data.path=gs://bucket/photos")
    remote, done = trained(tmp_path / "remote", *flags, env=server.environment)
    assert remote == local
    assert "24 files" in done.stderr


def test_evaluation_and_data_show_read_a_bucket(prepared, server, tmp_path):
    flags = [*STEPS, "--config.data.path=gs://bucket/prepared", f"--config.data.cache={tmp_path / 'cache'}"]
    shown = run("-m", "focalnet_jax.data.show", *flags, "--out", tmp_path / "sheet.png", env=server.environment)
    assert shown.returncode == 0, shown.stderr
    trained(tmp_path / "run", *flags, env=server.environment)
    done = run("eval.py", *flags, "--checkpoint", tmp_path / "run", env=server.environment)
    assert json.loads(done.stdout.splitlines()[-1])["examples"] == 10, done.stderr


@pytest.mark.parametrize("workers", [0, 1])
def test_a_flipped_byte_in_the_bucket_is_found_by_the_card(prepared, server, tmp_path, workers):
    server.copy_from(prepared, f"flipped{workers}")
    name = next(name for name in server.names(f"flipped{workers}/") if "train.array_record-00001" in name)
    content = bytearray(server.read(name))
    content[len(content) // 2] ^= 1
    server.write(name, bytes(content))
    flags = [*STEPS, f"--config.data.workers={workers}", f"--config.data.cache={tmp_path / 'cache'}"]
    flags += [f"--config.data.path=gs://bucket/flipped{workers}", "--workdir", tmp_path / "run"]
    done = run("train.py", *flags, env=server.environment)
    assert done.returncode == 2, done.stderr
    error = done.stderr.splitlines()[-1]
    assert error.startswith(f"error: gs://bucket/{name} is damaged: its content does not match the SHA-256"), error
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("tfds", "a prepared data set"),
        ("folder", "SPLIT/CLASS/*.jpg"),
        ("parquet", "Parquet files: one file or a folder, not a pattern"),
        ("webdataset", "WebDataset shards: one file or a folder"),
    ],
)
def test_nothing_at_an_address_is_one_line(here, tmp_path, source, what):
    for address, message in {
        "gs://bucket/nothing": f"there is nothing at data.path=gs://bucket/nothing; expected {what}",
        "gs://no-such-bucket/data": "data.path=gs://no-such-bucket/data: there is no such bucket; check its name",
    }.items():
        with pytest.raises(UserError) as caught:
            open_source(source, address, "train", SourceOptions(cache=str(tmp_path)))
        assert message in str(caught.value)


def test_one_shard_in_a_bucket_is_read_as_from_a_disk_and_a_pattern_is_refused(here, photos, tmp_path):
    files = {}
    for label, name in enumerate(("china", "flower")):
        for number, path in enumerate(sorted((photos / "train" / name).iterdir())):
            files |= {f"{name}{number}.jpg": path.read_bytes(), f"{name}{number}.cls": str(label).encode()}
    local = write_tar(tmp_path / "shards-train-0.tar", files)
    here.write("shards/shards-train-0.tar", local.read_bytes())
    here.write("shards/shards-train-1.tar", b"not copied")
    options = SourceOptions(cache=str(tmp_path / "cache"))
    remote = open_source("webdataset", "gs://bucket/shards/shards-train-0.tar", "train", options)
    expected = open_source("webdataset", str(local), "train", options)
    assert len(remote) == len(files) // 2
    assert remote.fingerprint == expected.fingerprint
    assert [remote[index] for index in range(len(remote))] == [expected[index] for index in range(len(remote))]
    assert not list((tmp_path / "cache").rglob("shards-train-1.tar"))
    for source in ("webdataset", "parquet"):
        with pytest.raises(
            UserError, match=r"data.path=gs://bucket/shards/\*.tar: patterns in buckets are not supported"
        ):
            open_source(source, "gs://bucket/shards/*.tar", "train", options)


def test_a_path_one_level_too_deep_is_answered_with_the_address_to_give(prepared, here, tmp_path):
    with pytest.raises(UserError, match=r"set data.path=gs://bucket/photos, which has this split") as caught:
        open_source("folder", "gs://bucket/photos/train", "train", SourceOptions(cache=str(tmp_path)))
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize("source", ["tfds", "folder"])
def test_an_address_of_another_service_is_one_line(source):
    with pytest.raises(UserError, match=r"data.path s3://bucket/data: S3 is not supported; mount the bucket"):
        open_source(source, "s3://bucket/data", "train")


def test_a_missing_bucket_ends_a_run_in_one_line(server, tmp_path):
    flags = [*STEPS, "--config.data.path=gs://no-such-bucket/data", f"--config.data.cache={tmp_path}"]
    done = run("train.py", *flags, "--workdir", tmp_path / "run", env=server.environment)
    assert_one_line_mistake(done, "data.path=gs://no-such-bucket/data: there is no such bucket; check its name")


@pytest.mark.parametrize("source", ["tfds", "folder"])
def test_without_gcsfs_the_error_names_the_extra(monkeypatch, source, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"data.path gs://bucket/data needs gcsfs: pip install 'focalnet_jax\[gcs\]'"):
        open_source(source, "gs://bucket/data", "train", SourceOptions(cache=str(tmp_path)))


@pytest.mark.parametrize(("source", "address"), [("tfds", "prepared"), ("folder", "photos")])
def test_a_disk_that_is_too_small_is_one_line(prepared, here, tmp_path, monkeypatch, source, address):
    monkeypatch.setattr(cached.shutil, "disk_usage", lambda path: SimpleNamespace(free=10_000))
    with pytest.raises(UserError, match=r"MB free: set data.cache to .* mount the bucket with gcsfuse"):
        open_source(source, f"gs://bucket/{address}", "train", SourceOptions(cache=str(tmp_path)))


def test_a_split_is_read_before_the_whole_data_set_has_arrived(prepared, here, tmp_path, monkeypatch):
    read = cached_reads(monkeypatch, lambda name: "train.array_record-00000" not in name)
    source = open_source("tfds", "gs://bucket/prepared", "train", SourceOptions(cache=str(tmp_path)))
    local = open_source("tfds", str(prepared), "train")
    assert source.fingerprint == local.fingerprint
    assert source[0] == local[0]  # of the first file, while all others are held back
    read.set()
    assert [source[index] for index in range(len(source))] == [local[index] for index in range(len(local))]
    assert source.name(0) == local.name(0)


def cached_reads(monkeypatch, held):
    """Holds back requests for objects whose names match, until the returned event is set."""
    event, read = threading.Event(), download.read_range

    def waiting(path, start, end):
        if held(path.name) and "array_record" in path.name:
            event.wait(60)
        return read(path, start, end)

    monkeypatch.setattr(download, "read_range", waiting)
    return event


def test_images_are_held_out_of_a_folder_in_a_bucket_as_of_one_on_a_disk(prepared, photos, here, tmp_path):
    here.copy_from(photos / "train", "classes")
    for address, path in (("classes", photos / "train"), ("photos", photos)):
        for split in ("train", "val"):
            parts = []
            for place in (f"gs://bucket/{address}", str(path)):
                data = dict(path=place, source="folder", train_split="train", eval_split="val", held_out=0.3)
                parts.append(open_split(ConfigDict(data | {"cache": str(tmp_path)}), split))
            remote, local = parts
            assert remote.fingerprint == local.fingerprint
            assert remote.class_names == local.class_names
            assert (remote.labels == local.labels).all()
            assert (decode(remote[0][0]) == decode(local[0][0])).all()


def test_a_folder_without_the_split_is_not_copied(prepared, here, tmp_path, capsys):
    with pytest.raises(UserError, match="gs://bucket/photos has no split 'test'; it contains train, val"):
        open_source("folder", "gs://bucket/photos", "test", SourceOptions(cache=str(tmp_path)))
    assert not capsys.readouterr().err


def test_a_batch_that_waits_for_data_is_no_stall_while_they_arrive(monkeypatch):
    class Slow:
        def __len__(self):
            return 1

        def __getitem__(self, index):
            time.sleep(3.0)
            return 0

    host = SimpleNamespace(eval_example=lambda example: {"image": np.zeros(1)})
    reading = loader.ReadOptions(threads=0, stall_seconds=1.0)
    monkeypatch.setattr(prefetch, "last_arrival", time.monotonic)
    assert len(list(loader.eval_batches(Slow(), host, batch_size=1, reading=reading))) == 1
    monkeypatch.setattr(prefetch, "last_arrival", lambda: 0.0)
    with pytest.raises(RunFailedError, match="no batch was read for 1 s"):
        list(loader.eval_batches(Slow(), host, batch_size=1, reading=reading))
