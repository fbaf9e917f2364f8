"""Runs of two processes in a bucket."""

import time

import numpy as np
import pytest

from tests.commands import losses, run
from tests.processes import ROUNDING, SHORT, launch
from tests.storage.conftest import rows
from tests.storage.proxy import failing
from tests.storage.test_faults import MANIFEST, steps_in

SAVING = [*SHORT, "--config.checkpoint_every_steps=5"]


def assert_same_losses(proxy, name, alone):
    together = {
        row["step"]: row["train/loss"]
        for row in rows(proxy.server.read(f"{name}/metrics.jsonl"))
        if "train/loss" in row
    }
    expected = losses(alone)
    assert together.keys() == expected.keys()
    np.testing.assert_allclose(list(together.values()), list(expected.values()), ROUNDING)


@pytest.mark.fault(49)
def test_two_processes_save_while_requests_fail(proxy, alone):
    proxy.faults = failing(0.05)
    stdout, stderr = launch(*SAVING, "--workdir", "gs://bucket/two", env=proxy.environment).communicate(timeout=500)
    proxy.faults = []
    assert "finished: 20 steps" in stdout, stderr
    assert_same_losses(proxy, "two", alone)
    verified = run("-m", "focalnet_jax.checkpoint", "verify", "gs://bucket/two", env=proxy.server.environment)
    assert "20  good" in verified.stdout


@pytest.mark.fault(49)
def test_one_process_resumes_the_run_of_two_killed_processes(proxy, alone):
    launcher = launch(*SAVING, "--config.total_steps=20", "--workdir", "gs://bucket/killed", env=proxy.environment)
    while not any(MANIFEST in names for names in steps_in(proxy, "killed").values()):
        assert launcher.poll() is None, launcher.communicate()[1]
        time.sleep(0.02)
    launcher.kill()  # its processes end with it
    launcher.communicate()
    done = run("train.py", *SAVING, "--workdir", "gs://bucket/killed", env=proxy.environment)
    assert "resumed from step" in done.stdout, done.stderr
    assert_same_losses(proxy, "killed", alone)
