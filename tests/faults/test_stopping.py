"""A run that is stopped, killed or fails loses as little as possible, tested with real processes and signals."""

import signal
import time

import psutil
import pytest

from focalnet_jax.checkpoint.steps import list_steps
from tests.commands import (
    EVERY,
    SMALL,
    assert_one_line_mistake,
    first_line,
    losses,
    metrics,
    run,
    saved_params,
    start,
)


def stopped(number, after_lines, *arguments, workdir):
    """Starts train.py, sends a signal when metrics.jsonl has more than `after_lines` lines, and waits for the end."""
    process = start("train.py", *arguments, "--workdir", workdir)
    path = workdir / "metrics.jsonl"
    deadline = time.monotonic() + 200
    while not (path.exists() and path.read_text().count("\n") > after_lines) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=150)
    return process.returncode, stderr


@pytest.mark.fault(12)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_stopped_run_resumes_and_ends_bitwise_equal_to_an_uninterrupted_one(finished, tmp_path, number):
    undisturbed, _ = finished
    code, stderr = stopped(number, 16, *SMALL, *EVERY, workdir=tmp_path / "run")
    assert code == (-9 if number == signal.SIGKILL else 42), stderr
    reached = max(losses(tmp_path / "run")) if number != signal.SIGKILL else None

    again = run("train.py", *SMALL, *EVERY, "--workdir", tmp_path / "run")
    assert again.returncode == 0, again.stderr
    resumed = int(again.stdout.split("resumed from step ")[1].split()[0])
    if reached is None:
        assert resumed % 7 == 0
        assert resumed > 0
    else:
        assert resumed == reached < 60  # a signal loses no steps
    assert losses(tmp_path / "run") == losses(undisturbed)
    steps = [row["step"] for row in metrics(tmp_path / "run") if "train/loss" in row]
    assert steps == sorted(set(steps))
    assert saved_params(tmp_path / "run", 60) == saved_params(undisturbed, 60)


def test_an_evaluation_cut_short_by_a_signal_is_made_up_for(tmp_path):
    # With one example per batch, the evaluation at step 3 takes long enough that the signal arrives during it.
    arguments = [*SMALL, "--config.total_steps=6", "--config.eval_every_steps=3", "--config.eval_batch_size=1"]
    code, stderr = stopped(signal.SIGINT, 2, *arguments, workdir=tmp_path)
    assert code == 42, stderr
    assert [row["step"] for row in metrics(tmp_path)] == [1, 2, 3]  # stopped during the evaluation
    again = run("train.py", *arguments, "--workdir", tmp_path)
    assert again.returncode == 0, again.stderr
    rows = metrics(tmp_path)
    assert [row["step"] for row in rows] == [1, 2, 3, 3, 4, 5, 6, 6]
    best = max(row["eval/top1"] for row in rows if "eval/top1" in row)
    assert f"best eval/top1 {best:.2f} %" in again.stdout


@pytest.fixture
def compiling(tmp_path):
    """A run whose first step takes much longer to compile than the test. It never ends, so it is not cached."""
    sizes = ["embed_dim=16", "depths=(1,8)", "focal_levels=4", "scan_blocks=false"]
    slow = [
        *(f"--config.model.{size}" for size in sizes),
        "--config.data.image_size=32",
        "--config.data.eval_resize=32",
    ]
    program = tmp_path / "train.py"
    program.write_text(
        "import jax, runpy\n"
        "from focalnet_jax.distributed import mesh\n"
        "jax.config.update('jax_log_compiles', True)\n"
        "mesh._COMPILER_OPTIONS['cpu']['xla_backend_optimization_level'] = '3'  # of the step, not of the fresh state\n"
        "runpy.run_path('train.py', run_name='__main__')\n"
    )
    process = start(program, *SMALL, *slow, "--config.grace_seconds=2", "--workdir", tmp_path / "run")
    while "Compiling jit(placed)" not in process.stderr.readline():
        assert process.poll() is None
    time.sleep(0.5)
    return process


@pytest.mark.fault(14)
def test_a_signal_during_compilation_ends_the_run_at_the_deadline(compiling):
    begun = time.monotonic()
    compiling.send_signal(signal.SIGTERM)
    _, stderr = compiling.communicate(timeout=150)
    assert compiling.returncode == 1
    assert 1.5 < time.monotonic() - begun < 5
    assert "no step was finished and saved within 2 s of SIGTERM" in stderr.splitlines()[-1]


@pytest.mark.fault(14)
def test_a_second_signal_ends_the_run_at_once(compiling):
    compiling.send_signal(signal.SIGTERM)
    while "SIGTERM: finishing" not in compiling.stderr.readline():
        assert compiling.poll() is None
    time.sleep(0.7)
    begun = time.monotonic()
    compiling.send_signal(signal.SIGTERM)
    _, stderr = compiling.communicate(timeout=150)
    assert compiling.returncode == 128 + signal.SIGTERM
    assert time.monotonic() - begun < 1.2  # before the deadline
    assert "SIGTERM again: stopped at once" in stderr


@pytest.mark.fault(12)
def test_two_signals_at_once_count_as_one(tmp_path):
    process = start("train.py", *SMALL, "--config.total_steps=1000000", "--workdir", tmp_path)
    first_line(process, "first step")
    process.send_signal(signal.SIGTERM)
    time.sleep(0.05)  # like a program that signals a process and then its group
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=150)
    assert process.returncode == 42, stderr
    assert list_steps(tmp_path / "checkpoints") == [max(losses(tmp_path))]


@pytest.mark.fault(12)
def test_a_signal_in_the_last_evaluation_costs_no_step(tmp_path):
    slow = ["--config.eval_batch_size=1", "--config.checkpoint_every_steps=1000", "--config.data.eval_resize=64"]
    arguments = [*SMALL, "--config.total_steps=3", *slow, "--config.data.image_size=64", "--workdir", tmp_path]
    process = start("train.py", *arguments)
    first_line(process, "step 3/3")
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=150)
    assert process.returncode == 42, stderr
    assert "saved at step 3" in stdout
    assert not any("eval/top1" in row for row in metrics(tmp_path))
    again = run("train.py", *arguments)
    assert again.returncode == 0, again.stderr
    assert [row["step"] for row in metrics(tmp_path) if "eval/top1" in row] == [3]


def test_a_run_that_is_killed_is_started_again_as_often_as_it_may(finished, tmp_path):
    process = start("train.py", *SMALL, *EVERY, "--max-restarts=2", "--workdir", tmp_path / "run")
    deadline = time.monotonic() + 100
    while not (tmp_path / "run" / "checkpoints" / "7" / "manifest.json").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    (child,) = psutil.Process(process.pid).children()
    child.kill()
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    assert "ended with exit code 137: restarting in 1 s (1 of 2 restarts)" in stderr
    assert losses(tmp_path / "run") == losses(finished[0])
    mistake = run("train.py", *SMALL, "--config.seed=-1", "--max-restarts=5", "--workdir", tmp_path / "other")
    assert_one_line_mistake(mistake, "seed=-1")


def test_a_run_does_not_outlive_who_would_start_it_again(tmp_path):
    process = start("train.py", *SMALL, "--config.total_steps=1000000", "--max-restarts=2", "--workdir", tmp_path)
    first_line(process, "first step")
    (child,) = psutil.Process(process.pid).children()
    process.kill()
    psutil.wait_procs([child], timeout=60)
    assert not child.is_running()
    assert list_steps(tmp_path / "checkpoints")
