"""A data set is prepared from a bucket and in a bucket as on a disk."""

import json
import shutil
import time
from pathlib import Path

import pytest
from array_record.python.array_record_module import ArrayRecordReader
from tensorboardX.record_writer import RecordWriter

from focalnet_jax.data.sources import SourceOptions, open_source
from focalnet_jax.errors import UserError
from focalnet_jax.storage import lease
from focalnet_jax.storage.address import to_path
from tests.commands import assert_one_line_mistake, run, start
from tests.data.preparing import write_tar
from tests.storage.conftest import SMALL_FILES


def prepare_in(server, *arguments):
    return run("-m", "focalnet_jax.data.prepare", "imagefolder", *SMALL_FILES, *arguments, env=server.environment)


def from_bucket(server, *arguments):
    done = prepare_in(server, *arguments)
    assert done.returncode == 0, done.stderr
    return done


def test_a_data_set_prepared_in_a_bucket_is_the_one_prepared_on_a_disk(prepared, server, tmp_path):
    flags = ["--source", "gs://bucket/photos", "--out", "gs://bucket/made", "--cache", tmp_path / "cache"]
    done = from_bucket(server, *flags)
    assert "--config.data.path=gs://bucket/made/images/1.0.0" in done.stdout
    local = prepared / "images" / "1.0.0"
    names = server.names("made/images/1.0.0/")
    assert {name.removeprefix("made/images/1.0.0/") for name in names} == {path.name for path in local.iterdir()}
    for path in local.iterdir():
        if "array_record" in path.name:
            assert server.read(f"made/images/1.0.0/{path.name}") == path.read_bytes()
    assert (
        json.loads(server.read("made/images/1.0.0/card.json"))["sha256"]
        == json.loads((local / "card.json").read_text())["sha256"]
    )
    assert [path.name for path in (tmp_path / "cache").iterdir() if path.name.startswith("out-")] == []
    again = from_bucket(server, *flags)
    assert "finished: gs://bucket/made/images/1.0.0 already contains this data set" in again.stdout


def test_a_killed_preparation_resumes_to_the_same_data_set_on_another_host(prepared, here, tmp_path):
    server = here
    arguments = ["-m", "focalnet_jax.data.prepare", "imagefolder", *SMALL_FILES]
    arguments += ["--source", "gs://bucket/photos", "--out", "gs://bucket/killed"]
    process = start(*arguments, "--cache", tmp_path / "one", env=server.environment)
    deadline = time.monotonic() + 120
    while len(server.names("killed/images/1.0.0/.prepare/train-")) < 2:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.kill()
    process.communicate()
    assert not server.names("killed/images/1.0.0/dataset_info.json")  # it is no data set yet
    with pytest.raises(UserError, match="found none"):
        open_source("tfds", "gs://bucket/killed", "train", SourceOptions(cache=str(tmp_path / "read")))
    other = run(
        *arguments, "--name", "images", "--held-out", "0.5", "--cache", tmp_path / "two", env=server.environment
    )
    assert other.returncode == 2, other.stderr
    again = run(*arguments, "--cache", tmp_path / "two", env=server.environment)
    assert again.returncode == 0, again.stderr
    assert "shards are already written" in again.stdout
    local = prepared / "images" / "1.0.0"
    names = {name.removeprefix("killed/images/1.0.0/") for name in server.names("killed/images/1.0.0/")}
    assert names == {path.name for path in local.iterdir()}
    for path in local.glob("*array_record*"):
        assert server.read(f"killed/images/1.0.0/{path.name}") == path.read_bytes()


def test_single_files_of_a_bucket_are_sources(here, photos, tmp_path):
    for name in ("flower.tar", "one/china.tar"):
        folder = photos / "train" / Path(name).stem
        files = {f"{folder.name}/{path.name}": path.read_bytes() for path in folder.iterdir()}
        here.write(name, write_tar(tmp_path / Path(name).name, files).read_bytes())
    flags = ["--out", tmp_path / "out", "--cache", tmp_path / "cache"]
    from_bucket(here, "--source", "gs://bucket/flower.tar", "gs://bucket/one/china.tar", *flags)
    assert open_source("tfds", str(tmp_path / "out"), "train").class_names == ("china", "flower")
    done = prepare_in(here, "--source", "gs://bucket/one", "gs://bucket/one/china.tar", *flags)
    assert_one_line_mistake(done, "some images are in both sources")


def test_another_data_set_in_the_bucket_is_not_overwritten(prepared, server, tmp_path):
    flags = ["--source", "gs://bucket/photos/train", "--out", "gs://bucket/other", "--cache", tmp_path / "cache"]
    from_bucket(server, *flags)
    before = server.names("other/")
    done = prepare_in(server, *flags, "--held-out", "0.5")
    assert_one_line_mistake(
        done, "gs://bucket/other/images/1.0.0/card.json belongs to another preparation: held_out was"
    )
    assert server.names("other/") == before


def test_a_preparation_on_another_host_is_not_disturbed(photos, here, tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.3)
    other = lease.Lease(to_path("gs://bucket/busy/images/1.0.0/.prepare/lock"), {"host": "other", "pid": 7})
    other.acquire(lambda holder: False, lambda holder: UserError("held"))
    try:
        done = prepare_in(here, "--source", photos, "--out", "gs://bucket/busy", "--cache", tmp_path)
    finally:
        other.release()
    where = "gs://bucket/busy/images/1.0.0"
    assert_one_line_mistake(done, f"another process is preparing {where} (host other, process 7); wait for it or stop")
    from_bucket(here, "--source", photos, "--out", "gs://bucket/busy", "--cache", tmp_path)
    assert not here.names("busy/images/1.0.0/.prepare/")


def test_nothing_at_a_source_or_no_bucket_for_the_output_is_one_line(prepared, photos, server, tmp_path):
    cache = ["--cache", tmp_path / "cache"]
    done = prepare_in(server, "--source", "gs://bucket/none", "--out", tmp_path / "out", *cache)
    assert_one_line_mistake(done, "--source gs://bucket/none: there is no such file or folder")
    done = prepare_in(server, "--source", photos, "--out", "gs://no-bucket/out", *cache)
    assert_one_line_mistake(done, "there is no bucket no-bucket")
    copied = ["--source", "gs://bucket/photos", "--cache", tmp_path / "copied"]
    done = prepare_in(server, *copied, "--out", "gs://no-bucket/out")
    assert_one_line_mistake(done, "--out gs://no-bucket/out: there is no bucket no-bucket; create it first")
    assert not (tmp_path / "copied").exists()  # nothing was copied before
    done = prepare_in(server, *copied, "--out", "gs//bucket/out")
    assert_one_line_mistake(done, "Did you mean gs://bucket/out?")


def test_a_tfrecord_data_set_in_a_bucket_becomes_an_array_record_data_set_in_it(prepared, here, tmp_path):
    local, old = prepared / "images" / "1.0.0", tmp_path / "old"
    shutil.copytree(local, old, ignore=shutil.ignore_patterns("*array_record*", "card.json"))
    description = json.loads((old / "dataset_info.json").read_text()) | {"fileFormat": "tfrecord"}
    (old / "dataset_info.json").write_text(json.dumps(description))
    for path in local.glob("*array_record*"):
        reader = ArrayRecordReader(str(path))
        writer = RecordWriter(str(old / path.name.replace("array_record", "tfrecord")))
        for record in reader.read_all():
            writer.write(record)
        writer.close()
        reader.close()
    here.copy_from(old, "tfrecord")
    flags = ["--source", "gs://bucket/tfrecord", "--out", "gs://bucket/converted", "--cache", tmp_path / "cache"]
    done = run("-m", "focalnet_jax.data.prepare", "tfrecord", *flags, "--processes", "1", env=here.environment)
    assert done.returncode == 0, done.stderr
    assert "--config.data.path=gs://bucket/converted/images/1.0.0" in done.stdout
    source = open_source("tfds", "gs://bucket/converted", "train", SourceOptions(cache=str(tmp_path / "read")))
    expected = open_source("tfds", str(local), "train")
    assert [source[index] for index in range(24)] == [expected[index] for index in range(24)]
    names = {name.removeprefix("converted/images/1.0.0/") for name in here.names("converted/images/1.0.0/")}
    assert names == {path.name for path in local.iterdir()} - {"manifest.jsonl"}
    card = json.loads(here.read("converted/images/1.0.0/card.json"))
    assert set(card["sha256"]) == {path.name for path in local.glob("*array_record*")}
