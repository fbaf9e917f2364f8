"""Two real processes, one of which is stopped or killed."""

import signal
import time

import pytest

from tests.commands import SMALL, losses, run
from tests.processes import SHORT, assert_same_run, launch, when_running


@pytest.mark.fault(13)
@pytest.mark.fault(19)
def test_a_signal_to_one_of_two_stops_both_at_a_step_from_which_one_goes_on_with_the_same_numbers(alone, tmp_path):
    # Channels are split, so both read the same examples.
    launcher = launch(*SHORT, "--config.mesh.data=1", "--config.mesh.tensor=2", "--workdir", tmp_path)
    _, second = when_running(launcher, tmp_path, 4)
    second.send_signal(signal.SIGTERM)
    stdout, stderr = launcher.communicate(timeout=60)
    assert launcher.returncode == 42, stderr
    assert "stopped by a signal to another process and saved at step" in stdout
    reached = max(losses(tmp_path))
    assert 4 <= reached < 20
    again = run("train.py", *SHORT, "--workdir", tmp_path)
    assert f"resumed from step {reached}" in again.stdout
    assert_same_run(tmp_path, alone)


@pytest.mark.fault(15)
def test_when_one_of_two_is_killed_the_other_ends_soon(tmp_path):
    arguments = [*SMALL, "--config.total_steps=1000000", "--config.schedule.warmup_steps=1"]
    launcher = launch(*arguments, "--workdir", tmp_path)
    first, second = when_running(launcher, tmp_path, 3)
    second.kill()
    begun = time.monotonic()
    _, stderr = launcher.communicate(timeout=60)
    assert launcher.returncode not in (0, 42)
    assert not first.is_running()
    assert time.monotonic() - begun < 15
    assert "failed: another process of this run has ended" in stderr
    assert "Traceback" not in stderr
