"""Addresses of buckets, and what is not one."""

import importlib.util
from pathlib import Path

import pytest

from focalnet_jax.errors import UserError
from focalnet_jax.storage.address import is_bucket, to_path
from focalnet_jax.storage.files import move, remove_tree, sizes, write_whole


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("gs://bucket", "expected gs://BUCKET/NAME"),
        ("gs://Bucket/run", "expected gs://BUCKET/NAME"),
        ("gs://bucket/a//b", "expected a name without empty parts"),
        ("gs://bucket/../b", "expected a name without empty parts"),
        ("s3://bucket/run", "S3 is not supported; mount the bucket"),
        ("gcs://bucket/run", "expected a local path or gs://BUCKET/NAME. Did you mean 'gs'?"),
        ("https://bucket/run", "expected a local path or gs://BUCKET/NAME"),
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
