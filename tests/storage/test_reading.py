"""Reads of a bucket that fail: one line, the right exit code, nothing changed, and within a time."""

import json
import os
import random
import time
from pathlib import Path

import pytest

import focalnet_jax
from focalnet_jax.checkpoint import __main__ as checkpoint
from focalnet_jax.checkpoint import integrity, steps, weights
from focalnet_jax.convert import __main__ as convert
from focalnet_jax.errors import RunFailedError, UserError
from focalnet_jax.report import __main__ as report
from focalnet_jax.report.runs import find_workdirs, names_of
from focalnet_jax.storage import files
from focalnet_jax.storage.address import to_path
from focalnet_jax.training import resume, writers
from tests.commands import run
from tests.storage.proxy import CUT_BEFORE, CUT_BODY, FLIP, STALL, Fault

RUN = "gs://bucket/run"
STEP = f"{RUN}/checkpoints/60"


def ended(command, *arguments):
    """Calls a command; returns its exit code and its error."""
    try:
        return command(*arguments) or 0, ""
    except UserError as error:
        return 2, str(error)
    except RunFailedError as error:
        return 1, str(error)


EXPIRED, FORBIDDEN = "no valid credentials", "no permission"

COMMANDS = {
    "list": lambda folder: ended(checkpoint.main, ["list", RUN]),
    "verify": lambda folder: ended(checkpoint.main, ["verify", RUN]),
    "verify a step": lambda folder: ended(checkpoint.main, ["verify", STEP]),
    "diff": lambda folder: ended(checkpoint.main, ["diff", RUN, "56", "60"]),
    "prune": lambda folder: ended(checkpoint.main, ["prune", "--dry-run", RUN]),
    "report": lambda folder: ended(report.main, [RUN, "--out", str(folder / "report.html")]),
    "report of a folder": lambda folder: ended(report.main, ["gs://bucket/all", "--out", str(folder / "report.html")]),
    "convert": lambda folder: ended(convert.main, [RUN, str(folder / "w.safetensors"), "--to", "timm"]),
    "load_model": lambda folder: ended(focalnet_jax.load_model, RUN),
    "continue_from": lambda folder: ended(resume.find_origin, RUN),
    "resume": lambda folder: ended(resume.find_newest, to_path(RUN) / "checkpoints"),
    "config.json": lambda folder: ended(resume.refuse_other_run, None, to_path(RUN), 60),
    "saved.json": lambda folder: ended(steps.last_saved, to_path(RUN)),
    "metrics.jsonl": lambda folder: ended(writers.best_written, to_path(RUN), 60, "eval/top1"),
    "was evaluated": lambda folder: ended(writers.was_evaluated, to_path(RUN), 60, "eval"),
}


@pytest.mark.fault(51)
@pytest.mark.parametrize("kind", [401, 403, 429, 503, CUT_BEFORE])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_whose_reads_fail_ends_with_one_line(bucket, tmp_path, name, kind):
    bucket.faults.append(Fault(kind))
    status, line = COMMANDS[name](tmp_path)
    assert status == (2 if kind in (401, 403) else 1), line
    assert line.startswith("gs://bucket/")
    assert "cannot be read" in line
    assert {401: EXPIRED, 403: FORBIDDEN}.get(kind, "nothing was changed") in line
    assert "damaged" not in line
    assert not list(tmp_path.iterdir())


def test_an_outage_at_any_request_gives_no_wrong_answer(bucket, capsys):
    before = len(bucket.requests)
    assert ended(checkpoint.main, ["list", RUN]) == (0, "")
    right, requests, failed = capsys.readouterr().out, len(bucket.requests) - before, 0
    for skipped in random.Random(0).sample(range(requests), 10):
        bucket.faults[:] = [Fault(503, skip=skipped)]
        status, line = ended(checkpoint.main, ["list", RUN])
        printed = capsys.readouterr().out
        # The number of requests differs: gcsfs cancels one if the answer to another suffices.
        assert (status == 1 and "cannot be read" in line) or (status == 0 and printed == right)
        failed += status
    assert failed > 5


def test_weights_files_in_a_bucket(bucket, finished, tmp_path, capsys):
    local, address = tmp_path / "w.safetensors", "gs://bucket/weights/w.safetensors"
    assert ended(convert.main, [str(finished[0]), str(local), "--to", "timm"]) == (0, "")
    bucket.server.write("weights/w.safetensors", local.read_bytes())
    try:
        for kind, status in ((403, 2), (503, 1)):
            bucket.faults[:] = [Fault(kind, target="w.safetensors")]
            found = ended(convert.main, [address, str(tmp_path / "of_bucket.safetensors"), "--to", "timm"])
            assert found[0] == status
            assert found[1].startswith(f"{address}")
            assert "cannot be read" in found[1]
        bucket.faults[:] = [Fault(CUT_BODY, target="download.*w.safetensors", times=1)]
        assert ended(convert.main, [address, str(tmp_path / "of_bucket.safetensors"), "--to", "timm"]) == (0, "")
        assert (tmp_path / "of_bucket.safetensors").read_bytes() == local.read_bytes()
        assert f"  {address}" in capsys.readouterr().out
    finally:
        bucket.server.delete("weights/w.safetensors")


@pytest.mark.parametrize("kind", [401, 403])
def test_arrays_that_cannot_be_read_are_not_damaged(bucket, kind):
    bucket.faults.append(Fault(kind, target="alt=media&tensorstore"))
    status, line = ended(weights.read_arrays, to_path(STEP), "params")
    assert status == 2
    assert line.startswith(f"{STEP}: cannot be read: {EXPIRED if kind == 401 else FORBIDDEN}")


@pytest.mark.fault(51)
@pytest.mark.parametrize("kind", [503, STALL])
def test_a_read_of_arrays_that_stalls_ends_in_time(bucket, monkeypatch, kind):
    monkeypatch.setattr(weights, "PATIENCE_SECONDS", 2.0)
    bucket.faults.append(Fault(kind, target="alt=media&tensorstore", times=2, seconds=60))
    begun = time.monotonic()
    status, line = ended(weights.read_arrays, to_path(STEP), "params")
    assert status == 1
    assert "cannot be read: no answer in time" in line
    assert time.monotonic() - begun < 10


def test_stalled_requests_of_arrays_are_repeated(bucket):
    assert os.environ["TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS"] == "30"
    bucket.faults.append(Fault(STALL, target="alt=media&tensorstore", times=1, seconds=600))
    shorter = bucket.environment | {"TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS": "2"}
    done = run("-m", "focalnet_jax.checkpoint", "diff", RUN, "56", "60", env=shorter)
    assert done.returncode == 0, done.stderr
    assert "parameters are bitwise equal" in done.stdout
    assert len(bucket.disturbed()) >= 1


@pytest.mark.fault(51)
def test_a_request_that_stalls_is_repeated(bucket, monkeypatch):
    file_system = files._file_system()
    assert file_system.requests_timeout.sock_read == 30
    monkeypatch.setattr(file_system, "requests_timeout", type(file_system.requests_timeout)(sock_read=0.2))
    bucket.faults.append(Fault(STALL, seconds=60, times=2))
    assert files.is_folder(to_path(RUN))
    bucket.faults[:] = [Fault(STALL, seconds=60)]
    begun = time.monotonic()
    with pytest.raises(OSError, match="no answer in time"):
        files.is_folder(to_path(RUN))
    assert time.monotonic() - begun < 30


@pytest.mark.fault(52)
def test_a_byte_that_the_network_changes_is_read_again(bucket):
    step = to_path(STEP)
    assert not integrity.find_damage(step)
    bucket.faults[:] = [Fault(FLIP, target="download.*manifest.json", times=1), Fault(FLIP, target="ocdbt", times=1)]
    assert not integrity.find_damage(step)
    assert len(bucket.disturbed()) >= 2
    bucket.faults[:] = [Fault(FLIP, target="download.*manifest.json")]
    assert integrity.find_damage(step) == ["manifest.json has changed since it was written"]


@pytest.mark.fault(4)
def test_every_changed_byte_is_detected(bucket, monkeypatch):
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", bucket.server.url)
    server, rng, step = bucket.server, random.Random(0), to_path("gs://bucket/changed/60")
    contents = {name: server.read(f"run/checkpoints/60/{name}") for name in files.sizes(to_path(STEP))}
    for name, content in contents.items():
        server.write(f"changed/60/{name}", content)
    changeable, flipped = sorted(contents.keys() - {"manifest.json"}), 0
    while flipped < 100:
        changed = rng.sample(changeable, 20)
        for name in changed:
            content = bytearray(contents[name])
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
            server.write(f"changed/60/{name}", bytes(content))
        found = integrity.find_damage(step)
        assert sorted(found) == sorted(f"{name} has changed since it was written" for name in changed)
        flipped += len(changed)
        for name in changed:
            server.write(f"changed/60/{name}", contents[name])
    assert not integrity.find_damage(step)
    for name in contents:
        server.delete(f"changed/60/{name}")


def test_runs_in_a_folder_of_a_bucket_are_reported(bucket, finished, tmp_path):
    assert find_workdirs(to_path(RUN)) == [to_path(RUN)]
    assert find_workdirs(to_path("gs://bucket/run/checkpoints")) == [to_path("gs://bucket/run/checkpoints")]
    both = [to_path(RUN), Path(finished[0])]
    assert names_of(both) == [RUN, str(finished[0])]
    assert names_of([to_path("gs://bucket/a/run"), to_path("gs://bucket/b/run")]) == ["a/run", "b/run"]
    out = tmp_path / "report.html"
    assert ended(report.main, [RUN, str(finished[0]), "--out", str(out)]) == (0, "")


def test_a_missing_bucket_is_one_line(bucket):
    status, line = ended(checkpoint.main, ["list", "gs://no-such-bucket/run"])
    assert status == 2
    assert "gs://no-such-bucket/run: there is no such bucket; check its name" in line
    status, line = ended(focalnet_jax.load_model, "gs://no-such-bucket/run")
    assert status == 2
    assert "gs://no-such-bucket/run: there is no such bucket; check its name" in line


MARKERS = ("run/", "run/checkpoints/", "run/checkpoints/60/", "run/checkpoints/60/params/", "run/tensorboard/")


def test_objects_that_mark_folders_change_nothing(bucket, capsys):
    listed = [files.sizes(to_path(RUN)), steps.list_steps(to_path(RUN) / "checkpoints")]
    for name in MARKERS:
        bucket.server.write(name, b"")
    try:
        assert [files.sizes(to_path(RUN)), steps.list_steps(to_path(RUN) / "checkpoints")] == listed
        assert ended(checkpoint.main, ["verify", RUN]) == (0, "")
        assert ended(checkpoint.main, ["list", RUN]) == (0, "")
        assert resume.find_newest(to_path(RUN) / "checkpoints").step == 60
        assert weights.read_arrays(to_path(STEP), "params")
        assert find_workdirs(to_path(RUN)) == [to_path(RUN)]
        assert "damaged" not in capsys.readouterr().out
    finally:
        for name in MARKERS:
            bucket.server.delete(name)


def test_a_folder_is_deleted_with_its_marker(bucket):
    for name in ("gone/7/", "gone/7/params/", "gone/7/params/a"):
        bucket.server.write(name, b"")
    files.remove_tree(to_path("gs://bucket/gone/7"))
    assert not bucket.server.names("gone/")


@pytest.mark.fault(51)
def test_an_outage_never_counts_as_a_missing_file(bucket):
    workdir = to_path(RUN)
    for name, read in {
        "saved.json": lambda: steps.last_saved(workdir),
        "config.json": lambda: resume.refuse_other_run(None, workdir, 60),
        "metrics.jsonl": lambda: writers.best_written(workdir, 60, "eval/top1"),
    }.items():
        bucket.faults[:] = [Fault(503, target=name)]
        with pytest.raises(RunFailedError, match=rf"^{RUN}/{name}: cannot be read: .*; nothing was changed"):
            read()
    bucket.faults.clear()
    assert steps.last_saved(workdir) == 60
    assert json.loads(files.read_text(workdir / "saved.json"))["step"] == 60
