"""Addresses of buckets, and what is not one."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from focalnet_jax.checkpoint.steps import find_checkpoint
from focalnet_jax.config import check_values, default_config
from focalnet_jax.convert.weights import read_weights
from focalnet_jax.data.held_out import open_split
from focalnet_jax.data.prepare.__main__ import main as prepare
from focalnet_jax.errors import UserError
from focalnet_jax.inference import find_pictures
from focalnet_jax.storage.address import is_bucket, to_path
from focalnet_jax.storage.files import move, remove_tree, sizes, write_whole


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("gs://bucket", "expected gs://BUCKET/NAME"),
        ("gs://Bucket/run", "expected gs://BUCKET/NAME"),
        ("gs://bucket/a//b", "expected no empty part"),
        ("gs://bucket/../b", "expected no empty part"),
        ("s3://bucket/run", "S3 is not supported; mount the bucket"),
        ("gcs://bucket/run", "expected a local path or gs://BUCKET/NAME. Did you mean 'gs'?"),
        ("https://bucket/run", "expected a local path or gs://BUCKET/NAME"),
        ("gs://bucket/a?b", "expected a name without ?"),
        ("gs:bucket/a", "Did you mean gs://bucket/a?"),
        ("gs//bucket/a/b", "Did you mean gs://bucket/a/b?"),
        ("gs:/bucket", "Did you mean gs://bucket/NAME?"),
        ("gs:///bucket/a", "Did you mean gs://bucket/a?"),
        ("GS://bucket/a", "Did you mean gs://bucket/a?"),
        (Path("gs:bucket/a"), "Did you mean gs://bucket/a?"),
        ("https://storage.googleapis.com/bucket/a", "Did you mean gs://bucket/a?"),
        ("https://storage.cloud.google.com/bucket/a/b?authuser=1", "Did you mean gs://bucket/a/b?"),
        ("file:///tmp/run", "is a URL; give the path /tmp/run"),
    ],
)
def test_a_wrong_address_is_an_error(address, message):
    with pytest.raises(UserError) as caught:
        to_path(address, "--workdir")
    assert message in str(caught.value)
    assert str(caught.value).startswith("--workdir ")


@pytest.mark.parametrize("address", ["gs://bucket/a/b", "gs://bucket/a/b/", Path("gs://bucket/a/b")])
def test_an_address_stays_one_also_as_a_path(address):
    path = to_path(address)
    assert str(path) == "gs://bucket/a/b"
    assert is_bucket(path)
    assert path.parent.name == "a"


@pytest.mark.parametrize("name", ["runs/a", "a:b/c", "./gs", "C:/runs"])
def test_local_paths_are_paths(name):
    assert to_path(name) == Path(name)
    assert not is_bucket(name)


def test_an_existing_path_that_looks_like_a_mistyped_address_is_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("gs:runs", "gs/runs"):
        Path(name).mkdir(parents=True)
        assert to_path(name) == Path(name)
    assert to_path("gs//runs") == Path("gs/runs")


@pytest.mark.parametrize(
    "path", ["gs:bucket/a", "gs//bucket/a", "gs:/bucket/a", "https://storage.googleapis.com/bucket/a"]
)
def test_a_mistyped_address_of_weights_or_data_is_an_error(path):
    data = dict(path=path, source="folder", train_split="train", eval_split="val", held_out=0.3, cache="unused")
    for read in (read_weights, find_checkpoint, lambda path: open_split(ConfigDict(data), "train")):
        with pytest.raises(UserError, match=r"Did you mean gs://bucket/a\?"):
            read(path)


@pytest.mark.parametrize("cache", ["gs://bucket/cache", "gs:bucket/cache", "s3://bucket/cache", ""])
def test_a_cache_in_a_bucket_is_an_error(cache, tmp_path):
    config = default_config()
    config.data.cache = cache
    with pytest.raises(UserError, match=r"data.cache=.*: expected a folder on a local disk"):
        check_values(config)
    with pytest.raises(UserError, match=r"--cache .*: expected a folder on a local disk"):
        prepare(["imagefolder", "--source", str(tmp_path), "--out", str(tmp_path / "out"), "--cache", cache])
    assert not list(tmp_path.iterdir())


def test_images_in_a_bucket_are_an_error_that_says_what_to_do():
    with pytest.raises(UserError, match=r"^gs://bucket/x.jpg: images are read from local paths; copy them first"):
        find_pictures(["gs://bucket/x.jpg"])


def test_without_gcsfs_the_error_names_the_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs gcsfs: pip install 'focalnet_jax\[gcs\]'"):
        to_path("gs://bucket/run")


def test_files_on_a_disk(tmp_path):
    write_whole(tmp_path / "one", "text")
    (tmp_path / "folder" / "below").mkdir(parents=True)
    write_whole(tmp_path / "folder" / "below" / "two", b"12")
    assert sizes(tmp_path) == {"one": 4, "folder/below/two": 2}
    moved = move(tmp_path / "folder", tmp_path / "moved")
    assert sizes(moved) == {"below/two": 2}
    remove_tree(moved)
    assert not moved.exists()


def test_a_command_without_addresses_loads_nothing_for_buckets():
    program = "import sys; from focalnet_jax.programs import config_files; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    used = set(done.stdout.split())
    assert "focalnet_jax.storage.address" in used
    assert not {"focalnet_jax.storage.cached", "focalnet_jax.storage.files", "gcsfs", "fsspec", "etils"} & used
