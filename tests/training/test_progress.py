"""Rates cover only steps, not compilation, evaluation or waiting."""

import time
from itertools import repeat

import pytest

from focalnet_jax.errors import UserError
from focalnet_jax.training.profiling import Profile, check_steps
from focalnet_jax.training.progress import Progress, StepCost

STEP = 0.05  # seconds; errors of sleep on a busy machine are much shorter


def run_steps(progress, steps, first=0.0, pause=0.0):
    """Imitates a number of steps, of which the first takes longer; returns the rates."""
    for step, _ in enumerate(progress.timed(iter(range(steps))), 1):
        time.sleep(STEP + (first if step == 1 else 0))
        if step == 1 and first:
            progress.first_step_done()
        if step == 2 and pause:
            with progress.paused():
                time.sleep(pause)
    return progress.rates(steps)


def test_neither_the_first_step_nor_a_pause_counts_as_a_step():
    progress = Progress(0, 100, 10, StepCost(images=4, flops=1e6, devices=2, peak=1e9))
    rates = run_steps(progress, 6, first=1.0, pause=1.0)
    for percentile in ("p50", "p90", "p99"):
        assert STEP <= rates[f"step_seconds_{percentile}"] < STEP + 0.2
    assert rates["images_per_second"] == pytest.approx(4 / rates["step_seconds_p50"], rel=0.5)
    assert rates["images_per_second_per_device"] == rates["images_per_second"] / 2
    assert rates["mfu"] == pytest.approx(rates["images_per_second"] / 4 * 1e6 / 1e9)
    assert 0.05 < rates["goodput"] < 0.5  # five steps of .05 s in 2.3 s


def test_the_first_step_does_not_include_what_a_resumed_run_makes_up_for(capsys):
    progress = Progress(5, 100, 10, StepCost(images=4, flops=1e6, devices=1, peak=None))
    with progress.paused():
        time.sleep(1.2)
    progress.first_step_done()
    assert capsys.readouterr().out == "first step, compilation included, took 0:00:00\n"


def test_waiting_for_input_is_reported_and_lowers_goodput():
    def slow():
        for batch in repeat({}, 4):
            time.sleep(0.2)
            yield batch

    progress = Progress(0, 100, 10, StepCost(images=4, flops=1e6, devices=1, peak=None))
    progress.first_step_done()
    progress._marked_step = 0
    for _ in progress.timed(slow()):
        time.sleep(STEP)
    rates = progress.rates(4)
    assert 0.6 < rates["input_wait"] < 0.9  # .8 of 1 s
    assert rates["mfu"] is None
    assert rates["goodput"] < 0.4


def test_a_profile_that_could_never_be_taken_is_refused():
    with pytest.raises(UserError, match="the last step of the run is 10"):
        check_steps((11, 12), 10)
    check_steps((10, 12), 10)
    with pytest.raises(UserError, match="the first step of the run is 5"):
        check_steps((1, 4), 10, first=4)
    check_steps((1, 5), 10, first=4)


def test_a_profile_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "profile").touch()
    with pytest.raises(UserError, match="cannot create"):
        Profile((1, 2), tmp_path)
