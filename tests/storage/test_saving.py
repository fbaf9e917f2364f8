"""Saves after a failed save, and what a run that may no longer write does."""

import time

import jax
import pytest

from focalnet_jax.checkpoint import lock, manager, steps
from focalnet_jax.checkpoint.manager import Checkpoints
from focalnet_jax.errors import RunFailedError
from focalnet_jax.storage import lease
from focalnet_jax.storage.address import to_path
from focalnet_jax.storage.mirror import Mirror
from focalnet_jax.storage.patience import PATIENCE
from focalnet_jax.training import resume
from tests.faults.saver import items
from tests.storage.conftest import use
from tests.storage.proxy import SLOW, Fault


@pytest.fixture
def through(proxy, monkeypatch):
    """The proxy, used by this process."""
    use(proxy, monkeypatch)
    return proxy


@pytest.mark.fault(47)
def test_after_a_failed_save_the_next_one_succeeds(through):
    checkpoints = Checkpoints(to_path("gs://bucket/again"), "eval/top1", keep_latest=5, keep_best=0)
    checkpoints.save(1, items(1), {})
    checkpoints.wait()
    through.faults = [Fault(403, ("POST", "PUT"), "again/checkpoints/2/")]
    checkpoints.save(2, items(2), {})
    with pytest.raises(RunFailedError, match=r"no permission .*; the last good checkpoint is step 1"):
        checkpoints.wait()
    through.faults = []
    checkpoints.save(3, items(3), {})
    checkpoints.wait()
    assert checkpoints.last_good() == 3
    checkpoints.close()
    folder = to_path("gs://bucket/again/checkpoints")
    assert [step for step in steps.list_steps(folder) if steps.is_complete(folder / str(step))] == [1, 3]


def test_large_objects_pass_the_proxy(through):
    checkpoints = Checkpoints(to_path("gs://bucket/large"), "eval/top1", keep_latest=5, keep_best=0)
    noise = jax.random.normal(jax.random.key(0), (1024, 1024))  # 4 MB that cannot be compressed
    state = items(1) | {"params": {"a": noise}}
    checkpoints.save(1, state, {})
    checkpoints.wait()
    assert checkpoints.last_good() == 1
    assert (checkpoints.restore(1, state)["params"]["a"] == noise).all()
    checkpoints.close()


def test_waiting_for_a_slow_save_is_reported(through, monkeypatch, capsys):
    monkeypatch.setattr(manager, "_SLOW_SECONDS", 0.2)
    checkpoints = Checkpoints(to_path("gs://bucket/slow"), "eval/top1", keep_latest=5, keep_best=0)
    through.faults = [Fault(SLOW, ("POST", "PUT"), "slow/checkpoints/", seconds=1, times=1)]
    checkpoints.save(1, items(1), {})
    checkpoints.wait()
    assert "the bucket is slow: waiting for the save of step 1 in gs://bucket/slow" in capsys.readouterr().err
    checkpoints.save(2, items(2), {})
    checkpoints.close()
    assert checkpoints.last_good() == 2


def test_a_process_that_writes_no_manifests_does_not_deny_earlier_checkpoints(through, monkeypatch):
    monkeypatch.setattr("jax.process_index", lambda: 1)
    checkpoints = Checkpoints(to_path("gs://bucket/second"), "eval/top1", keep_latest=5, keep_best=0)
    assert checkpoints.describe_newest() == "earlier checkpoints are unchanged"


@pytest.mark.fault(48)
def test_a_run_without_the_lock_writes_nothing_of_a_step(through):
    def lost():
        raise lease.LockLostError("another run has taken the lock")

    checkpoints = Checkpoints(to_path("gs://bucket/lost"), "eval/top1", keep_latest=5, keep_best=0, before_seal=lost)
    checkpoints.save(1, items(1), {})
    with pytest.raises(RunFailedError, match="another run has taken the lock"):
        checkpoints.wait()
    assert not through.server.names("lost/checkpoints/1")


@pytest.mark.fault(46)
@pytest.mark.parametrize("left", ["_CHECKPOINT_METADATA", "metadata/metadata", "params/d/0"])
def test_whatever_a_killed_save_leaves_is_removed(through, left):
    name = left.replace("/", "-")
    through.server.write(f"{name}/checkpoints/7/{left}", b"{}")
    folder = to_path(f"gs://bucket/{name}/checkpoints")
    found = resume.find_newest(folder)
    assert found.others[7][0] == "unfinished"
    found.put_aside()
    steps.remove_leftovers(folder)
    assert not through.server.names(name)


@pytest.mark.fault(45)
def test_a_start_waits_half_a_minute_for_a_bucket(through, monkeypatch):
    monkeypatch.setattr(lease, "_START_SECONDS", 1.0)
    through.faults = [Fault(503)]
    begun = time.monotonic()
    with pytest.raises(RunFailedError, match="cannot write to --workdir"), lock.held(to_path("gs://bucket/start")):
        pass
    assert time.monotonic() - begun < 20


def until_it_fails(mirror):
    """Asks a mirror for its failure for at most 30 s."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        mirror.check()
        time.sleep(0.1)


@pytest.mark.fault(48)
def test_a_run_learns_soon_that_it_has_lost_the_lock(tmp_path):
    def lost():
        raise lease.LockLostError("another run has taken the lock")

    with pytest.raises(RunFailedError, match="another run has taken the lock"):
        until_it_fails(Mirror(tmp_path, to_path(tmp_path / "workdir"), lost))


@pytest.mark.fault(47)
def test_a_run_that_cannot_write_for_ten_minutes_ends(through, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(PATIENCE, "seconds", 2.0)  # instead of 600
    through.faults = [Fault(403)]
    mirror = Mirror(tmp_path, to_path("gs://bucket/forbidden"), lambda: None)
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    with pytest.raises(RunFailedError, match="cannot write to gs://bucket/forbidden: no permission"):
        until_it_fails(mirror)
    assert capsys.readouterr().err.count("trying again") == 1


def test_a_file_that_grows_is_copied_to_its_last_line(through, tmp_path):
    mirror = Mirror(tmp_path, to_path("gs://bucket/grows"), lambda: None)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        for number in range(400):
            file.write(f'{{"step": {number}}}\n')
            file.flush()
            if number % 100 == 0:
                mirror.copy()
            time.sleep(0.002)
    mirror.close()
    assert through.server.read("grows/metrics.jsonl") == (tmp_path / "metrics.jsonl").read_bytes()
