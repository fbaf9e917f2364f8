"""A save that cannot be written, and saved steps that stay as they were."""

import contextlib
import shlex
import subprocess
import threading

import pytest

from focalnet_jax.checkpoint.integrity import find_damage
from focalnet_jax.checkpoint.manager import Checkpoints
from focalnet_jax.checkpoint.steps import check_whole
from focalnet_jax.checkpoint.weights import save_params
from focalnet_jax.errors import RunFailedError, UserError
from tests.commands import (
    ENVIRONMENT,
    SMALL,
    assert_one_line_mistake,
    command,
    run,
)
from tests.faults.saver import items


@pytest.mark.fault(42)
def test_a_directory_whose_name_orbax_takes_for_a_pattern_is_refused_at_once(tmp_path):
    for name in ("lr[1e-3]", "what?", "all*"):
        done = run("train.py", *SMALL, "--workdir", tmp_path / name)
        assert_one_line_mistake(done, "which Orbax treats as a pattern: choose another")
        assert not (tmp_path / name).exists()
        with pytest.raises(UserError, match="treats as a pattern"):
            save_params(tmp_path / name, items(1)["params"], {})


@pytest.mark.fault(42)
def test_a_step_without_all_its_arrays_is_not_a_checkpoint(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path, "eval/top1", keep_latest=2, keep_best=0)
    checkpoints.save(1, items(1), {})
    checkpoints.wait()
    monkeypatch.setattr("focalnet_jax.checkpoint.manager.check_whole", leave_out)
    checkpoints.save(2, items(2), {})
    with pytest.raises(RunFailedError, match="arrays of params were not written; the last good checkpoint is step 1"):
        checkpoints.wait()
    checkpoints.close()
    assert checkpoints.last_good() == 1


def leave_out(step, names):
    """Imitates Orbax, which leaves arrays out if it does not find what it has written."""
    (step / "params" / "manifest.ocdbt").unlink()
    check_whole(step, names)


def on_a_small_disk(folder, *commands):
    """Runs commands with `folder` on a file system of 12 MB; returns their exit codes and the finished process."""
    mount = f"mount -t tmpfs -o size=12m tmpfs {folder}"
    alone = [
        "unshare",
        "--map-root-user",
        "--mount",
        "sh",
        "-c",
    ]  # the mount is private to these processes and disappears with them
    if subprocess.run([*alone, mount], capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount a file system")
    script = "; ".join([mount, *(f"{shlex.join(map(str, given))}; echo ended with $?" for given in commands)])
    done = subprocess.run([*alone, script], env=ENVIRONMENT, capture_output=True, text=True)
    return [int(line.split()[-1]) for line in done.stdout.splitlines() if line.startswith("ended with")], done


@pytest.mark.fault(7)
@pytest.mark.fault(42)
def test_on_a_full_disk_a_run_fails_with_one_line_and_keeps_its_checkpoints(tmp_path):
    wide = ["--config.model.embed_dim=32", "--config.checkpoint_every_steps=2", "--config.keep_latest=50"]
    train = command("train.py", *SMALL, *wide, "--workdir", tmp_path / "run")
    verify = command("-m", "focalnet_jax.checkpoint", "verify", tmp_path / "run")
    (full, _), done = on_a_small_disk(tmp_path, train, verify)
    assert full == 1
    assert done.stderr.startswith(("failed: cannot write checkpoint", "failed: No space left on device")), done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert " good: " in done.stdout


@pytest.mark.fault(42)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # raised in Orbax's threads
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_save_that_fails_in_the_background_raises_in_the_caller_that_waits(tmp_path, monkeypatch):
    before = set(threading.enumerate())
    checkpoints = Checkpoints(tmp_path, "eval/top1", keep_latest=2, keep_best=0)
    checkpoints.save(1, items(1), {})
    checkpoints.wait()
    # Time that Orbax's threads wait for a directory that is never created. By default it is five minutes, so that they
    # would end during a different test.
    monkeypatch.setattr("orbax.checkpoint._src.multihost.multihost.coordination_timeout", lambda: 1)
    (tmp_path / "checkpoints").rename(tmp_path / "gone")  # the disk disappears, and nothing can be written to its path
    (tmp_path / "checkpoints").touch()
    checkpoints.save(2, items(2), {})
    with pytest.raises(RunFailedError, match="cannot write checkpoint"):
        checkpoints.wait()
    checkpoints.close()
    for thread in set(threading.enumerate()) - before:
        if type(thread) is not threading.Thread:  # threads of Orbax; the others only wait for work
            with contextlib.suppress(TimeoutError):  # raised by the thread
                thread.join(timeout=30)
    assert not find_damage(tmp_path / "gone" / "1")
