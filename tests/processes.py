"""Starts runs of two processes on this machine with the launcher."""

import time

import numpy as np
import psutil

from tests.commands import ENVIRONMENT, SMALL, losses, saved_params, start

# Sums over the batch have a different order: an error of 6e-8 per rounding, which grows slightly in 20 AdamW steps.
ROUNDING = 1e-5
SHORT = [*SMALL, "--config.batch_size=16", "--config.schedule.warmup_steps=2", "--config.total_steps=20"]


def launch(*arguments, devices=1, env=ENVIRONMENT):
    """Starts the launcher of train.py with two processes, with pipes."""
    flags = ["-m", "focalnet_jax.launch", "--processes", 2, "--devices-per-process", devices, "--", "train.py"]
    return start(*flags, *arguments, env=env)


def when_running(launcher, workdir, steps):
    """Returns the launcher's processes as soon as they have done some steps."""
    deadline = time.monotonic() + 240
    while not (workdir / "metrics.jsonl").exists() or max(losses(workdir), default=0) < steps:
        assert launcher.poll() is None, launcher.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    children = psutil.Process(launcher.pid).children()
    return sorted(children, key=lambda child: (child.create_time(), child.pid))  # in the order they were started


def assert_same_run(workdir, alone):
    expected, together = losses(alone), losses(workdir)
    assert together.keys() == expected.keys()
    np.testing.assert_allclose(list(together.values()), list(expected.values()), ROUNDING)
    for name, parameter in saved_params(workdir, 20).items():
        ours, theirs = (np.frombuffer(p, np.float32) for p in (parameter, saved_params(alone, 20)[name]))
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5, err_msg=name)
