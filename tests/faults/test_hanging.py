"""A run that hangs while it saves or waits for data ends, tested with real processes."""

import os
import shutil
import signal
import time

import pytest

from focalnet_jax.checkpoint.steps import list_steps
from tests.commands import FOLDER, SMALL, first_line, losses, run, start


@pytest.mark.fault(16)
def test_a_save_that_hangs_at_the_end_ends_the_run(tmp_path):
    os.mkfifo(tmp_path / ".saved.json.part")  # a write to it blocks until there is a reader
    done = run(
        "train.py", *SMALL, "--config.total_steps=3", "--config.health.watchdog_seconds=4", "--workdir", tmp_path
    )
    assert done.returncode == 1
    assert "failed: no progress for 4 s" in done.stderr
    assert list_steps(tmp_path / "checkpoints") == [3]


@pytest.fixture
def stalling(photos, tmp_path):
    """Flags of a run, and a function that replaces its training images by pipes without a writer."""
    shutil.copytree(photos, tmp_path / "data")

    def stall():
        for picture in (tmp_path / "data" / "train").rglob("*.jpg"):
            picture.unlink()
            os.mkfifo(picture)

    arguments = [*FOLDER, f"--config.data.path={tmp_path / 'data'}", "--workdir", tmp_path / "run"]
    return [*arguments, "--config.total_steps=1000000", "--config.data.threads=2"], stall


@pytest.mark.fault(14)
def test_a_run_that_waits_for_data_saves_after_a_signal(stalling, tmp_path):
    arguments, stall = stalling
    process = start("train.py", *arguments)
    first_line(process, "first step")
    stall()
    time.sleep(2)
    begun = time.monotonic()
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=150)
    assert process.returncode == 42, stderr
    assert time.monotonic() - begun < 100  # before the end of grace_seconds, which is 120
    reached = int(stdout.split("saved at step ")[1].split(";")[0])
    assert (tmp_path / "run" / "checkpoints" / str(reached)).is_dir()
    assert reached == max(losses(tmp_path / "run"))


def stderr_without_data(stalling, setting):
    """Returns the lines on stderr of a run that receives no more data."""
    arguments, stall = stalling
    process = start("train.py", *arguments, setting)
    first_line(process, "first step")
    stall()
    _, stderr = process.communicate(timeout=150)
    assert process.returncode == 1
    return stderr.splitlines()


@pytest.mark.fault(16)
def test_a_run_without_data_ends_with_the_stacks_of_its_threads(stalling):
    lines = stderr_without_data(stalling, "--config.health.watchdog_seconds=3")
    assert lines[0].startswith("failed: no progress for 3 s after step ")
    assert any("loader.py" in line for line in lines)  # the file in which it hangs


@pytest.mark.fault(16)
def test_a_loader_that_hangs_ends_the_run_with_one_line(stalling):
    (line,) = stderr_without_data(stalling, "--config.data.stall_seconds=3")
    assert line.startswith("failed: no batch was read for 3 s")
