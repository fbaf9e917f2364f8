"""Saves and runs in a bucket whose service fails."""

import os
import signal
import time

import pytest

from tests.commands import run, start
from tests.storage.conftest import RUN, rows
from tests.storage.proxy import CUT_BEFORE, MIXED, SLOW, Fault, failing

MANIFEST = "manifest.json"


def steps_in(proxy, name):
    """Steps of a run by number: the names of their objects."""
    found = {}
    for each in proxy.server.names(f"{name}/checkpoints/"):
        step, _, rest = each.removeprefix(f"{name}/checkpoints/").partition("/")
        found.setdefault(int(step), set()).add(rest)
    return found


def saving(proxy, name, count=None):
    arguments = (f"gs://bucket/{name}", *([] if count is None else [count]))
    return start("-m", "tests.faults.saver", *arguments, env=proxy.environment)


def assert_good(proxy, name):
    verified = run("-m", "focalnet_jax.checkpoint", "verify", f"gs://bucket/{name}", env=proxy.server.environment)
    assert verified.returncode == 0, verified.stdout + verified.stderr
    return verified.stdout


def assert_all_saved(proxy, runs, count):
    errors = {name: process.communicate(timeout=1200)[1] for name, process in runs.items()}
    proxy.faults = []
    for name, process in runs.items():
        assert process.returncode == 0, errors[name]
        steps = steps_in(proxy, name)
        assert steps.keys() == {1, count - 1, count}
        assert all(MANIFEST in names for names in steps.values())
        assert_good(proxy, name)
        assert saving(proxy, name, 0).communicate()[0] == f"ready {count}\n"  # restores the newest step


@pytest.mark.fault(44)
def test_saves_lose_nothing_while_every_tenth_request_fails(proxy):
    proxy.faults = failing(0.1)
    runs = {f"run{number}": saving(proxy, f"run{number}", 3) for number in range(3)}
    assert_all_saved(proxy, runs, 3)
    assert {request.fault for request in proxy.disturbed()} == set(MIXED)


@pytest.mark.fault(44)
def test_200_saves_lose_nothing_while_every_tenth_request_fails(proxy):
    proxy.faults = failing(0.1)
    runs = {f"run{number}": saving(proxy, f"run{number}", 10) for number in range(20)}
    assert_all_saved(proxy, runs, 10)
    assert len(proxy.disturbed()) > 0.08 * len(proxy.requests)


def assert_killed_anywhere_leaves_whole_steps(proxy, places):
    """Kills a saving process at each place, counted in write requests from its second save on.

    The process is killed before the request reaches the server and after it in turn. Returns the requests.
    """
    met, newest = [], 0
    for number, place in enumerate([*places, None]):
        process = saving(proxy, "killed")
        writes = []

        def watch(request, process=process, place=place, writes=writes, before=number % 2 == 0):
            if request.method == "GET" or (not writes and not request.name.endswith("saved.json")):
                return
            writes.append(request)
            if len(writes) > (place or 0) + 1:
                os.kill(process.pid, signal.SIGKILL)
                request.fault = CUT_BEFORE if before else None

        ready = process.stdout.readline()
        assert ready == f"ready {newest}\n", process.communicate()[1]
        steps = steps_in(proxy, "killed")
        assert all(MANIFEST in names for names in steps.values())  # nothing is left of the killed save or deletion
        assert max(steps, default=0) == newest
        if place is None:
            process.kill()
            break
        proxy.on_request = watch
        process.communicate()
        proxy.on_request = lambda request: None
        assert process.returncode == -signal.SIGKILL
        met.append(writes[-1])
        time.sleep(0.2)  # requests under way
        newest = max(step for step, names in steps_in(proxy, "killed").items() if MANIFEST in names)
    process.communicate()
    assert_good(proxy, "killed")
    return met


@pytest.mark.fault(46)
def test_a_kill_during_a_save_or_a_deletion_leaves_complete_steps(proxy):
    assert_killed_anywhere_leaves_whole_steps(proxy, range(0, 64, 8))


@pytest.mark.fault(46)
@pytest.mark.parametrize("first", range(4))
def test_a_kill_at_any_request_of_a_save_or_a_deletion_leaves_complete_steps(proxy, first):
    met = assert_killed_anywhere_leaves_whole_steps(proxy, range(first, 64, 4))
    assert {request.method for request in met} == {"POST", "DELETE"}


def assert_survives_outage(proxy, finished, seconds):
    process = start("train.py", *RUN, "--workdir", "gs://bucket/outage", env=proxy.environment)
    while not any(MANIFEST in names for names in steps_in(proxy, "outage").values()):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    proxy.faults = [Fault(CUT_BEFORE)]
    end = time.monotonic() + seconds
    while not process.stdout.readline().startswith("step 60/60"):
        assert process.poll() is None, process.communicate()[1]
    assert time.monotonic() < end  # training continued
    time.sleep(max(0.0, end - time.monotonic()))
    assert process.poll() is None
    proxy.faults = []
    _, stderr = process.communicate(timeout=200)
    assert process.returncode == 0, stderr
    assert "warning: the bucket does not answer" in stderr
    assert "the bucket answers again" in stderr
    assert rows(proxy.server.read("outage/metrics.jsonl")) == rows((finished[0] / "metrics.jsonl").read_bytes())
    assert "60  good" in assert_good(proxy, "outage")


@pytest.mark.fault(45)
def test_a_run_survives_an_outage(proxy, finished):
    assert_survives_outage(proxy, finished, 40)  # more than gcsfs repeats a request


@pytest.mark.fault(45)
def test_a_run_survives_an_outage_of_three_minutes(proxy, finished):
    assert_survives_outage(proxy, finished, 185)


@pytest.mark.fault(47)
def test_a_run_that_loses_its_permission_ends_and_names_the_last_good_step(proxy):
    flags = ["--config.total_steps=100000", "--config.log_every_steps=1000", "--config.eval_every_steps=100000"]
    flags += ["--config.checkpoint_every_steps=300"]
    process = start("train.py", *RUN, *flags, "--workdir", "gs://bucket/revoked", env=proxy.environment)
    while not any(MANIFEST in names for names in steps_in(proxy, "revoked").values()):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    proxy.faults = [Fault(403)]
    _, stderr = process.communicate(timeout=200)
    proxy.faults = []
    assert process.returncode == 1
    assert "Traceback" not in stderr
    good = max(step for step, names in steps_in(proxy, "revoked").items() if MANIFEST in names)
    assert f"the last good checkpoint is step {good}" in stderr.splitlines()[-1]
    assert "no permission" in stderr.splitlines()[-1]


@pytest.mark.fault(45)
def test_slow_requests_delay_saves_not_steps(proxy, finished):
    proxy.faults = [Fault(SLOW, ("POST",), "checkpoints/", seconds=0.5)]
    process = start("train.py", *RUN, "--workdir", "gs://bucket/slow", env=proxy.environment)
    while not process.stdout.readline().startswith("step 60/60"):
        assert process.poll() is None, process.communicate()[1]
    assert not [step for step, names in steps_in(proxy, "slow").items() if MANIFEST in names]
    _, stderr = process.communicate(timeout=200)
    assert process.returncode == 0, stderr
    assert "the save of step 7 is still in progress" in stderr
    assert rows(proxy.server.read("slow/metrics.jsonl")) == rows((finished[0] / "metrics.jsonl").read_bytes())


@pytest.mark.fault(48)
def test_of_two_runs_that_start_at_once_one_is_refused(proxy):
    flags = [*RUN, "--config.total_steps=100000", "--config.log_every_steps=100000"]
    both = [start("train.py", *flags, "--workdir", "gs://bucket/raced", env=proxy.environment) for _ in range(2)]
    try:
        deadline = time.monotonic() + 200
        while all(process.poll() is None for process in both):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        (refused,) = [process for process in both if process.poll() is not None]
        (other,) = [process for process in both if process is not refused]
        _, stderr = refused.communicate()
        assert (refused.returncode, len(stderr.strip().splitlines())) == (2, 1), stderr
        assert "is used by another run" in stderr
        other.send_signal(signal.SIGTERM)
        _, stderr = other.communicate(timeout=200)
        assert other.returncode == 42, stderr
    finally:
        for process in both:
            process.kill()
