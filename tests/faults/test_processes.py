"""Runs of two real processes, one of which is stopped or killed."""

import contextlib
import signal
import time

import jax
import psutil
import pytest

from focalnet_jax.checkpoint.steps import list_steps
from focalnet_jax.distributed.startup import is_lost_connection
from tests.commands import SMALL, losses, metrics, run
from tests.processes import SHORT, assert_same_run, launch, when_running


@pytest.mark.fault(13)
@pytest.mark.fault(19)
def test_a_signal_to_one_of_two_processes_stops_both_at_one_step_and_one_process_resumes(alone, tmp_path):
    # Channels are sharded over the processes, so both read the same examples.
    launcher = launch(*SHORT, "--config.mesh.data=1", "--config.mesh.tensor=2", "--workdir", tmp_path)
    _, second = when_running(launcher, tmp_path, 4)
    second.send_signal(signal.SIGTERM)
    stdout, stderr = launcher.communicate(timeout=150)
    assert launcher.returncode == 42, stderr
    assert "stopped by a signal to another process and saved at step" in stdout
    reached = max(losses(tmp_path))
    assert 4 <= reached < 20
    again = run("train.py", *SHORT, "--workdir", tmp_path)
    assert f"resumed from step {reached}" in again.stdout
    assert_same_run(tmp_path, alone)


@pytest.mark.fault(13)
def test_two_processes_finish_an_evaluation_before_they_stop(tmp_path):
    slow = ["--config.eval_every_steps=3", "--config.eval_batch_size=2", "--config.checkpoint_every_steps=1000"]
    launcher = launch(*SHORT, *slow, "--workdir", tmp_path)
    when_running(launcher, tmp_path, 3)
    launcher.send_signal(signal.SIGTERM)  # which forwards it to both
    stdout, stderr = launcher.communicate(timeout=150)
    assert launcher.returncode == 42, stderr
    assert "saved at step 3" in stdout
    assert [row["step"] for row in metrics(tmp_path)] == [1, 2, 3, 3]
    assert list_steps(tmp_path / "checkpoints") == [3]


def endless(workdir):
    """Starts an endless run of two processes; returns the launcher and the processes, in their third step or later."""
    launcher = launch(*SMALL, "--config.total_steps=1000000", "--config.schedule.warmup_steps=1", "--workdir", workdir)
    return launcher, *when_running(launcher, workdir, 3)


def ended_soon_without(killed, other, launcher):
    """Kills one of two processes; asserts that the other ends within 15 s, and returns what was written to stderr."""
    killed.kill()
    begun = time.monotonic()
    _, stderr = launcher.communicate(timeout=150)
    assert launcher.returncode not in (0, 42)
    assert not other.is_running()
    assert time.monotonic() - begun < 15
    return stderr


def lines_of_second(stderr):
    return [line for line in stderr.splitlines() if line.startswith("[1]")]


@pytest.mark.fault(15)
def test_when_one_of_two_processes_is_killed_the_other_ends(tmp_path):
    launcher, first, second = endless(tmp_path)
    stderr = ended_soon_without(second, first, launcher)
    assert "failed: another process of this run has ended" in stderr
    assert "Traceback" not in stderr


@pytest.mark.fault(15)
def test_when_process_0_is_killed_the_other_ends_with_one_line(tmp_path):
    launcher, first, second = endless(tmp_path)
    stderr = ended_soon_without(first, second, launcher)
    lines = lines_of_second(stderr)
    assert len(lines) == 1, stderr
    assert "failed: " in lines[0]
    assert "of this run" in lines[0]


@pytest.mark.fault(15)
def test_a_process_that_hangs_ends_the_others_with_one_line(tmp_path):
    launcher, first, second = endless(tmp_path)
    first.suspend()
    begun = time.monotonic()
    with contextlib.suppress(psutil.NoSuchProcess):  # it ended between the two questions
        while second.is_running() and second.status() != "zombie" and time.monotonic() - begun < 20:
            time.sleep(0.1)
    taken = time.monotonic() - begun
    first.kill()
    _, stderr = launcher.communicate(timeout=150)
    assert taken < 15
    lines = lines_of_second(stderr)
    assert len(lines) == 1
    assert "of this run has ended or does not respond" in lines[0]


@pytest.mark.parametrize(
    ("error", "processes", "lost"),
    [
        (jax.errors.JaxRuntimeError("UNKNOWN: Gloo all-reduce failed: Connection reset by peer"), 2, True),
        (ValueError("UNKNOWN: Gloo AllGather failed: Connection closed by peer"), 2, True),  # of Orbax's save
        (ValueError("UNKNOWN: Gloo AllGather failed: Connection closed by peer"), 1, False),
        (ValueError("the connection of two layers is missing"), 2, False),
        (OSError("Connection reset by peer"), 2, False),  # perhaps a bucket
    ],
)
def test_an_exchange_with_a_process_that_ended_is_told_from_other_errors(error, processes, lost, monkeypatch):
    monkeypatch.setattr("jax.process_count", lambda: processes)
    assert is_lost_connection(error) == lost
