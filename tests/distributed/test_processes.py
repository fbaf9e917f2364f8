"""Several real processes are one run: same numbers, one checkpoint, one end."""

import signal
import subprocess
import time

import numpy as np
import psutil
import pytest

from tests.commands import ENVIRONMENT, SMALL, assert_one_line_mistake, command, losses, run, saved_params

# Sums over the batch are taken in another order, 6e-8 a rounding; twenty AdamW steps let that grow a little.
ROUNDING = 1e-5


def launch(*arguments, devices=1, env=ENVIRONMENT):
    """The launcher of train.py in two processes, started, in pipes."""
    flags = ["-m", "focalnet_jax.launch", "--processes", 2, "--devices-per-process", devices, "--", "train.py"]
    return subprocess.Popen(
        [command("")[0], *map(str, [*flags, *arguments])],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def when_running(launcher, workdir, steps):
    """The launcher's processes, as soon as they have done some steps."""
    deadline = time.monotonic() + 240
    while not (workdir / "metrics.jsonl").exists() or max(losses(workdir), default=0) < steps:
        assert launcher.poll() is None, launcher.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    children = psutil.Process(launcher.pid).children()
    return sorted(children, key=lambda child: int(child.environ()["JAX_PROCESS_ID"]))


def test_a_signal_to_one_of_two_stops_both_at_a_step_from_which_one_goes_on_with_the_same_numbers(tmp_path):
    short = [*SMALL, "--config.batch_size=16", "--config.schedule.warmup_steps=2", "--config.total_steps=20"]
    alone = run("train.py", *short, "--workdir", tmp_path / "alone")
    assert alone.returncode == 0, alone.stderr
    # Channels are split, so both read the same examples; tests/test_prepared_data.py splits the batch.
    launcher = launch(*short, "--config.mesh.data=1", "--config.mesh.tensor=2", "--workdir", tmp_path / "two")
    _, second = when_running(launcher, tmp_path / "two", 4)
    second.send_signal(signal.SIGTERM)
    stdout, stderr = launcher.communicate(timeout=60)
    assert launcher.returncode == 42, stderr
    assert stdout.count("2 process(es)") == 1  # one of them prints
    assert "stopped by a signal to another process and saved at step" in stdout
    reached = max(losses(tmp_path / "two"))
    again = run("train.py", *short, "--workdir", tmp_path / "two")
    assert f"resumed from step {reached}" in again.stdout
    expected, together = losses(tmp_path / "alone"), losses(tmp_path / "two")
    assert 4 <= reached < 20
    assert together.keys() == expected.keys()
    np.testing.assert_allclose(list(together.values()), list(expected.values()), ROUNDING)
    for name, parameter in saved_params(tmp_path / "two", 20).items():
        ours, theirs = (np.frombuffer(p, np.float32) for p in (parameter, saved_params(tmp_path / "alone", 20)[name]))
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5, err_msg=name)


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


def test_processes_that_were_started_with_different_things_refuse(tmp_path):
    """By hand, as on two machines."""
    shared = ["train.py", *SMALL, "--coordinator", "localhost:47113", "--processes", "2"]
    first, second = (
        subprocess.Popen(
            command(*shared, "--process", index, f"--config.seed={index}", "--workdir", tmp_path / str(index)),
            env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for index in range(2)
    )  # fmt: skip
    for index, process in enumerate((first, second)):
        _, stderr = process.communicate(timeout=120)
        assert process.returncode == 2
        assert f"the processes of this run differ in seed (here {index})" in stderr
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--processes", "2"], "expected HOST:PORT"),
        (["--coordinator", "nowhere", "--processes", "2", "--process", "0"], "expected HOST:PORT"),
        (["--coordinator", "localhost:1", "--processes", "2", "--process", "2"], "this one's number below it"),
    ],
)
def test_incomplete_addresses_are_one_line(arguments, told, tmp_path):
    assert_one_line_mistake(run("train.py", *SMALL, *arguments, "--workdir", tmp_path / "run"), told)


@pytest.mark.parametrize("index", [0, 1])
def test_processes_that_do_not_meet_end_with_one_line_after_the_timeout(index, tmp_path):
    begun = time.monotonic()
    done = run(
        "train.py", *SMALL, "--coordinator", f"localhost:{47114 + index}", "--processes", 2, "--process", index,
        "--coordinator-timeout", 3, "--workdir", tmp_path / "run",
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith(f"failed: not all processes met at localhost:{47114 + index} within 3 s")
    assert len(done.stderr.splitlines()) == 1
    assert time.monotonic() - begun < 30
    assert not (tmp_path / "run").exists()


def test_the_launcher_refuses_what_is_no_program(tmp_path):
    flags = ["-m", "focalnet_jax.launch", "--processes", "2", "--"]
    assert_one_line_mistake(run(*flags, "trian.py"), "expected a Python program")
    assert_one_line_mistake(run(*flags), "expected a Python program")
    (tmp_path / "says.py").write_text("import os, sys; print(os.environ['JAX_PROCESS_ID']); sys.exit(7)")
    done = run(*flags, tmp_path / "says.py")
    assert done.returncode == 7
    assert sorted(done.stdout.split()) == ["0", "1"]
