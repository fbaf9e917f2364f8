"""What keeps a preparation of thousands of large files possible: memory, and the number of indices that are opened."""

import os
import resource
import shutil
import subprocess
import sys

import pytest

from focalnet_jax.data.prepare.index import Index
from tests.data.layouts import write_parquet
from tests.data.pictures import picture
from tests.data.preparing import in_process, prepared, refused, write_tar  # noqa: F401

_ROWS, _BYTES = 400, 100_000


@pytest.mark.usefixtures("in_process")
def test_a_shard_opens_the_index_of_each_container_once(tmp_path, monkeypatch):
    for number in range(80):
        samples = {}
        for key in range(4):
            name = f"{number:03d}{key}"
            samples |= {f"{name}.jpg": picture((number + key) % 60), f"{name}.cls": str(key).encode()}
        write_tar(tmp_path / "set" / f"train-{number:04d}.tar", samples)
    loaded, original = [], Index.load
    monkeypatch.setattr(Index, "load", lambda path: (loaded.append(path), original(path))[1])
    card, _ = prepared(tmp_path / "out", "webdataset", "--source", tmp_path / "set", "--shard-mb", "0.03")
    shards = card["splits"]["train"]["shards"]
    assert shards > 2
    # Once to plan the shards, and once per shard; images are in random order, so that each shard has 320 / shards.
    assert len(loaded) <= 80 * (1 + shards)
    assert len(loaded) < 80 + 320


@pytest.fixture
def few_open_files():
    """Allows this process to have about 30 more open files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 30, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("in_process", "few_open_files")
def test_a_data_set_may_have_more_containers_than_a_process_may_have_open_files(tmp_path):
    for number in range(40):
        for split in ("train", "val"):
            write_tar(tmp_path / "set" / split / f"n{number:08d}.tar", {f"n{number:08d}_0.JPEG": picture(number)})
    card, _ = prepared(tmp_path / "out", "imagefolder", "--source", tmp_path / "set")
    assert (card["splits"]["train"]["examples"], card["splits"]["val"]["examples"]) == (40, 40)


@pytest.mark.usefixtures("in_process")
def test_a_disk_that_is_too_small_for_the_copies_is_noticed_first(tmp_path, monkeypatch):
    path = write_parquet(tmp_path / "train.parquet", [("0.jpg", picture(0), 0)])
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 0))
    refused("must be copied to", "parquet", "--source", path, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_row_group_is_read_in_parts(tmp_path):
    """Compares the peak of pyarrow's memory with a row group of 40 MB, whose pages have about a megabyte."""
    program = f"""
import sys
import numpy as np, pyarrow
from pathlib import Path
from pyarrow import parquet
from focalnet_jax.data.prepare.containers import parquet as container
from focalnet_jax.data.prepare.labels import Labels
from focalnet_jax.data.prepare.rows import index_rows

path, rng = Path({str(tmp_path / "train.parquet")!r}), np.random.default_rng(0)
schema = pyarrow.schema([("image", pyarrow.binary()), ("label", pyarrow.int64())])
if sys.argv[1] == 'make':
    rows = dict(image=[rng.bytes({_BYTES}) for _ in range({_ROWS})], label=[0] * {_ROWS})
    parquet.write_table(pyarrow.table(rows, schema), path, row_group_size={_ROWS}, write_batch_size=8)
else:
    assert parquet.ParquetFile(path).metadata.num_row_groups == 1
    with open(path.with_suffix(".spool"), "wb") as spool:
        assert len(index_rows(container(path, split="train"), Labels(), spool)) == {_ROWS}
    print(pyarrow.default_memory_pool().max_memory())
"""
    subprocess.run([sys.executable, "-c", program, "make"], check=True)
    done = subprocess.run([sys.executable, "-c", program, "read"], check=True, capture_output=True, text=True)
    assert int(done.stdout) < _ROWS * _BYTES / 2  # a batch of 64 rows has 6.4 MB
    assert (tmp_path / "train.spool").stat().st_size == _ROWS * _BYTES
