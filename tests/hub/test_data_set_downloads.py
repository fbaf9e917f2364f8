"""Data sets on the hub: access, the cache, interrupted and damaged downloads."""

import errno
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest

from focalnet_jax.data.prepare.__main__ import main
from focalnet_jax.errors import RunFailedError
from focalnet_jax.hub.address import parse_address
from focalnet_jax.hub.datasets import fetch_files, list_files
from tests.commands import run, start
from tests.data.layouts import write_parquet
from tests.data.pictures import picture
from tests.data.preparing import in_process, prepared, refused, write_tar  # noqa: F401
from tests.hub.handler import READER
from tests.hub.repositories import files_in, rows

pytestmark = pytest.mark.usefixtures("in_process")

FILE = r"GET /(cdn/)?datasets/.*\.(parquet|tar)"


def test_private_gated_and_missing_repositories_are_one_line(hub, tmp_path, monkeypatch):
    files = rows(tmp_path / "set", 0, 4)
    hub.add("datasets/me/private", files, private=True)
    hub.add("datasets/me/gated", files, gated=True)
    out = ["--out", tmp_path / "out"]

    def source(address, message):
        refused(message, "parquet", "--source", address, *out)

    source("hf://datasets/me/private", "hf://datasets/me/private does not exist on http")
    source(
        "hf://datasets/me/gated", f"hf://datasets/me/gated is gated: accept its conditions on {hub.url}/datasets/me/"
    )
    monkeypatch.setenv("HF_TOKEN", READER)
    source("hf://datasets/me/gated", "is gated: accept its conditions")
    source("hf://datasets/me/private@v9", "hf://datasets/me/private has no revision 'v9'")
    prepared(tmp_path / "read", "parquet", "--source", "hf://datasets/me/private")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    list_files.cache_clear()
    source("hf://datasets/me/private", "the hub rejects the token (401)")
    source("hf://me/private", "is a model on the hub; expected a data set, hf://datasets/ORG/NAME")
    source("hf://datasets/me", "names no repository")
    assert not (tmp_path / "out").exists()


def test_without_the_library_one_line_says_what_to_install(hub, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    refused("hf://datasets/me/x needs huggingface_hub: pip install 'focalnet_jax[hub]'", "parquet", "--source",
            "hf://datasets/me/x", "--out", tmp_path / "out")  # fmt: skip


def test_a_disk_that_is_too_small_is_noticed_before_the_download(hub, tmp_path, monkeypatch):
    hub.add("datasets/me/pictures", rows(tmp_path / "set", 0, 4))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 0))
    refused(
        "are not downloaded yet, but", "parquet", "--source", "hf://datasets/me/pictures", "--out", tmp_path / "out"
    )
    assert not hub.asked(FILE)


def test_a_column_that_is_missing_is_noticed_before_the_other_files_are_downloaded(hub, tmp_path, monkeypatch):
    hub.add("datasets/me/pictures", rows(tmp_path / "set", 0, 4))
    arguments = ["--source", "hf://datasets/me/pictures", "--out", tmp_path / "out"]
    refused("has no column lable: give one of image, label. Did you mean 'label'?", "parquet", *arguments,
            "--label-column", "lable")  # fmt: skip
    assert len(hub.asked("GET /cdn")) == 1
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    hub.requests.clear()
    list_files.cache_clear()
    refused("pip install 'focalnet_jax[parquet]'", "parquet", *arguments)
    assert not hub.requests


def test_offline_a_whole_data_set_in_the_cache_is_read_and_a_part_is_not(hub, tmp_path, monkeypatch, capfd):
    from huggingface_hub import constants

    hub.add("datasets/me/pictures", rows(tmp_path / "set", 0, 4))
    source = ["--source", "hf://datasets/me/pictures"]
    expected, _ = prepared(tmp_path / "one", "parquet", *source)
    list_files.cache_clear()
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert prepared(tmp_path / "two", "parquet", *source)[0]["fingerprint"] == expected["fingerprint"]
    assert "HF_HUB_OFFLINE is set; commit" in capfd.readouterr().err
    assert not hub.requests
    next(Path(os.environ["HF_HOME"]).glob("hub/datasets--me--pictures/snapshots/*/val-*")).unlink()
    with pytest.raises(RunFailedError, match=r"val-00000-of-00001.parquet is not in the cache .*, and HF_HUB_OFFLINE"):
        main(["parquet", *source, "--out", str(tmp_path / "three")])
    with pytest.raises(RunFailedError, match="hf://datasets/me/others is not in the cache"):
        main(["parquet", "--source", "hf://datasets/me/others", "--out", str(tmp_path / "three")])


def test_a_damaged_file_in_the_cache_is_downloaded_again(hub, tmp_path, capfd):
    hub.add("datasets/me/pictures", rows(tmp_path / "set", 0, 4))
    source = ["--source", "hf://datasets/me/pictures"]
    expected, _ = prepared(tmp_path / "expected", "parquet", *source)
    (path,) = Path(os.environ["HF_HOME"]).glob("hub/datasets--me--pictures/snapshots/*/train-*")
    content = path.read_bytes()
    damages = {
        "its SHA-256 differs": content[:-1] + bytes([content[-1] ^ 1]),
        f"it has {len(content) - 9:,} bytes; expected {len(content):,}": content[:-9],
    }
    for number, (why, damaged) in enumerate(damages.items()):
        path.resolve().write_bytes(damaged)
        hub.requests.clear()
        capfd.readouterr()
        found, _ = prepared(tmp_path / f"{number}", "parquet", *source)
        assert found["fingerprint"] == expected["fingerprint"]
        assert f"{path} in the hub's cache was damaged ({why}) and is removed" in capfd.readouterr().err
        assert len(hub.asked("GET /cdn")) == 1
    hub.requests.clear()
    prepared(tmp_path / "again", "parquet", *source)
    assert not hub.asked("GET /cdn")


def test_intact_files_in_the_cache_are_hashed_once(hub, tmp_path, monkeypatch):
    hub.add("datasets/me/pictures", rows(tmp_path / "set", 0, 4))
    address = parse_address("hf://datasets/me/pictures", "dataset")
    listing = list_files(address)
    fetch_files(address, listing, list(listing.sizes))
    hashed = []
    monkeypatch.setattr("focalnet_jax.hub.datasets.is_damaged", hashed.append)
    fetch_files(address, listing, list(listing.sizes))
    assert not hashed
    (next(Path(os.environ["HF_HOME"]).glob("hub/**/intact.json"))).unlink()  # as if other software had downloaded them
    fetch_files(address, listing, list(listing.sizes))
    assert len(hashed) == len(listing.sizes)


def test_a_cache_that_cannot_be_written_names_its_variable(hub, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", "/cache")

    hub.add("datasets/me/pictures", rows(tmp_path / "set", 0, 4))
    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    refused("cannot write to the hub's cache, /cache: Permission denied; set HF_HOME to a folder", "parquet",
            "--source", "hf://datasets/me/pictures", "--out", tmp_path / "out")  # fmt: skip


def test_an_endpoint_without_a_scheme_is_named(environment, tmp_path):
    done = run("-m", "focalnet_jax.data.prepare", "parquet", "--source", "hf://datasets/me/pictures", "--out",
               tmp_path / "out", env=environment | {"HF_ENDPOINT": "hub.example.org"})  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == (
        "error: HF_ENDPOINT is 'hub.example.org'; expected a URL with http:// or https://. Did you mean "
        "'https://hub.example.org'?\n"
    )


def test_a_file_that_is_cut_or_changed_on_the_way_is_downloaded_again(hub, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("time.sleep", lambda _: None)  # between attempts
    hub.add("datasets/me/pictures", rows(tmp_path / "set", 0, 4))
    expected, _ = prepared(tmp_path / "expected", "parquet", "--source", tmp_path / "set")
    hub.fail("GET /cdn/.*train", flipped=True, times=1)
    hub.fail("GET /cdn/.*val", status=503, times=2)
    found, _ = prepared(tmp_path / "out", "parquet", "--source", "hf://datasets/me/pictures")
    assert found["fingerprint"] == expected["fingerprint"]
    notes = [line for line in capfd.readouterr().err.splitlines() if "trying again in" in line]
    assert notes[0].endswith(": trying again in 1 s")
    list_files.cache_clear()
    shutil.rmtree(os.environ["HF_HOME"])
    hub.fail("GET /cdn/.*train", flipped=True)
    with pytest.raises(RunFailedError, match="was damaged during the download"):
        main(["parquet", "--source", "hf://datasets/me/pictures", "--out", str(tmp_path / "more")])


def test_after_a_kill_only_the_files_that_were_not_complete_are_downloaded(hub, environment, tmp_path):
    write_parquet(tmp_path / "set" / "train-00000-of-00002.parquet", [("0.jpg", picture(0), 0)])
    files = files_in(tmp_path / "set") | {"train-00001-of-00002.parquet": os.urandom(30_000_000)}
    hub.add("datasets/me/large", files)
    arguments = ["-m", "focalnet_jax.data.prepare", "parquet", "--source", "hf://datasets/me/large"]
    hub.fail("GET /cdn/.*train-00001", cut_after=25_000_000, stalls=60, times=1)
    process = start(*arguments, "--out", tmp_path / "out", env=environment)
    blobs = Path(environment["HF_HOME"]) / "hub" / "datasets--me--large" / "blobs"
    deadline = time.monotonic() + 60
    while not (
        any(path.stat().st_size >= 20_000_000 for path in blobs.glob("*.incomplete"))
        and any(not path.name.endswith(".incomplete") for path in blobs.glob("*"))
    ):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.kill()
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    hub.requests.clear()
    done = run(*arguments, "--out", tmp_path / "out", env=environment)
    assert "is damaged or not a Parquet file" in done.stderr  # the random bytes: everything has been downloaded
    # The first versions of huggingface_hub resume within the file, newer ones download the file again.
    assert [path.rpartition("/")[2] for _, path, _ in hub.requests if path.startswith("/cdn")] == [
        "train-00001-of-00002.parquet"
    ]
    assert not list(blobs.glob("*.incomplete"))


def test_a_preparation_continues_after_the_cache_was_emptied(hub, tmp_path, capsys):
    hub.add("datasets/me/pictures", rows(tmp_path / "set", 0, 4))
    arguments = ["parquet", "--source", "hf://datasets/me/pictures", "--out", str(tmp_path / "out")]
    assert main([*arguments, "--processes", "1"]) == 0
    shutil.rmtree(os.environ["HF_HOME"])
    list_files.cache_clear()
    assert main([*arguments, "--processes", "1"]) == 0
    assert "already contains this data set" in capsys.readouterr().out
