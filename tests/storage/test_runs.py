"""A run in a bucket keeps the promises of a run on a disk."""

import json
import os
import signal
import time

import pytest

import focalnet_jax
from focalnet_jax.storage import lease
from tests.commands import SMALL, assert_one_line_mistake, losses, run, start
from tests.storage.conftest import RUN, rows


def in_server(server, name, workdir):
    """A run of `RUN` in the server's bucket, and what it printed."""
    return run("train.py", *RUN, *name, "--workdir", workdir, env=server.environment)


def test_a_run_computes_the_same_bits_as_on_a_disk(server, in_bucket, finished):
    name, _ = in_bucket
    assert rows(server.read(f"{name}/metrics.jsonl")) == rows((finished[0] / "metrics.jsonl").read_bytes())
    done = run("-m", "focalnet_jax.convert", f"gs://bucket/{name}", finished[0].parent / "of_bucket.safetensors",
               "--to", "timm", env=server.environment)  # fmt: skip
    assert done.returncode == 0, done.stderr
    local = finished[0].parent / "of_disk.safetensors"
    assert run("-m", "focalnet_jax.convert", finished[0], local, "--to", "timm").returncode == 0
    assert local.read_bytes() == (finished[0].parent / "of_bucket.safetensors").read_bytes()


def test_its_files_are_those_of_a_workdir_and_the_lock_is_gone(server, in_bucket, finished):
    name, printed = in_bucket
    names = {each.removeprefix(f"{name}/").split("/")[0] for each in server.names(f"{name}/")}
    assert names == {path.name for path in finished[0].iterdir()}
    assert "everything is in gs://bucket/finished" in printed


def test_commands_take_its_address(server, in_bucket, tmp_path):
    name, _ = in_bucket
    address, env = f"gs://bucket/{name}", server.environment
    listed = run("-m", "focalnet_jax.checkpoint", "list", address, env=env)
    assert "60" in listed.stdout, listed.stderr
    verified = run("-m", "focalnet_jax.checkpoint", "verify", address, env=env)
    assert verified.returncode == 0, verified.stderr
    assert "60  good" in verified.stdout
    evaluated = run("eval.py", *SMALL, "--checkpoint", address, env=env)
    result = json.loads(evaluated.stdout.splitlines()[-1])
    assert result["checkpoint"] == f"{address}/checkpoints/60"
    assert result["top1"] == pytest.approx(rows(server.read(f"{name}/metrics.jsonl"))[-1]["eval/top1"])
    report = run("-m", "focalnet_jax.report", address, "--out", tmp_path / "report.html", env=env)
    assert report.returncode == 0, report.stderr
    continued = run(
        "train.py", *SMALL, "--config.total_steps=2", f"--config.continue_from={address}", "--workdir", tmp_path / "on",
        env=env,
    )  # fmt: skip
    assert continued.returncode == 0, continued.stderr
    assert losses(tmp_path / "on").keys() == {61, 62}


def test_weights_files_are_read_from_a_bucket(here, in_bucket, tmp_path):
    done = run("-m", "focalnet_jax.convert", "gs://bucket/finished", tmp_path / "w.safetensors", "--to", "timm",
               env=here.environment)  # fmt: skip
    assert done.returncode == 0, done.stderr
    here.write("weights/w.safetensors", (tmp_path / "w.safetensors").read_bytes())
    model = focalnet_jax.load_model("gs://bucket/weights/w.safetensors")
    assert type(model).__name__ == "FocalNet"


def killed_after_a_save(server, name):
    """Starts a run, and kills it when its first checkpoint is in the bucket."""
    process = start("train.py", *RUN, "--workdir", f"gs://bucket/{name}", env=server.environment)
    deadline = time.monotonic() + 240
    while not any(each.endswith("manifest.json") for each in server.names(f"{name}/checkpoints/")):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()


def test_a_killed_run_resumes_to_the_same_bits(server, in_bucket):
    killed_after_a_save(server, "killed")
    # The lock of a process of this machine that has ended is no hindrance.
    done = in_server(server, (), "gs://bucket/killed")
    assert done.returncode == 0, done.stderr
    assert "resumed from step" in done.stdout
    assert rows(server.read("killed/metrics.jsonl")) == rows(server.read(f"{in_bucket[0]}/metrics.jsonl"))


def test_a_changed_object_is_found_and_an_older_step_resumes(server):
    done = in_server(server, ("--config.total_steps=14", "--config.eval_every_steps=7"), "gs://bucket/damaged")
    assert done.returncode == 0, done.stderr
    sizes = server.names("damaged/checkpoints/14/params/ocdbt.process_0/d/")
    name = max(sizes, key=sizes.get)
    content = bytearray(server.read(name))
    content[len(content) // 2] ^= 1
    server.write(name, bytes(content))
    verified = run("-m", "focalnet_jax.checkpoint", "verify", "gs://bucket/damaged", env=server.environment)
    assert verified.returncode == 1
    assert "14  damaged" in verified.stdout
    again = in_server(server, ("--config.total_steps=14", "--config.eval_every_steps=7"), "gs://bucket/damaged")
    assert again.returncode == 0, again.stderr
    assert "resumed from step 7" in again.stdout
    assert any(name.startswith("damaged/checkpoints/14.damaged/") for name in server.names("damaged/"))


def test_a_step_without_its_manifest_is_none_and_is_removed(server):
    flags = ("--config.total_steps=14", "--config.eval_every_steps=7")
    assert in_server(server, flags, "gs://bucket/partial").returncode == 0
    server.delete("partial/checkpoints/14/manifest.json")
    again = in_server(server, flags, "gs://bucket/partial")
    assert again.returncode == 0, again.stderr
    assert "resumed from step 7" in again.stdout
    assert run("-m", "focalnet_jax.checkpoint", "verify", "gs://bucket/partial", env=server.environment).returncode == 0


@pytest.mark.fault(48)
def test_a_second_run_is_refused_while_the_first_one_runs(server):
    flags = ["--config.total_steps=100000", "--config.log_every_steps=100000", "--config.eval_every_steps=100000"]
    first = start("train.py", *RUN, *flags, "--workdir", "gs://bucket/held", env=server.environment)
    try:
        deadline = time.monotonic() + 240
        while not server.names("held/lock"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        second = in_server(server, (), "gs://bucket/held")
        assert_one_line_mistake(second, "--workdir gs://bucket/held is used by another run")
        first.send_signal(signal.SIGTERM)
        output, errors = first.communicate(timeout=240)
        assert first.returncode == 42, output + errors
    finally:
        first.kill()
    assert not server.names("held/lock")


@pytest.mark.fault(48)
def test_a_lock_that_is_no_longer_renewed_is_taken_over(here, monkeypatch):
    from focalnet_jax.storage.address import to_path

    monkeypatch.setattr(lease, "PATIENCE_SECONDS", 2.0)
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.3)
    path = to_path("gs://bucket/leased/lock")
    first = lease.Lease(path, {"host": "first"})
    first.acquire(lambda holder: False, lambda holder: focalnet_jax.errors.UserError("held"))
    second = lease.Lease(path, {"host": "second"})
    with pytest.raises(focalnet_jax.errors.UserError, match="held"):
        second.acquire(lambda holder: False, lambda holder: focalnet_jax.errors.UserError("held"))
    first._ended.set()  # as if its machine were gone
    second.acquire(lambda holder: False, lambda holder: focalnet_jax.errors.UserError("held"))
    first._ended.clear()
    first._renew()  # it comes back
    with pytest.raises(focalnet_jax.errors.RunFailedError, match="another run has taken the lock"):
        first.check()
    second.check()
    second.release()
    assert not here.names("leased/")


def test_a_missing_bucket_is_one_line(server):
    done = run("train.py", *SMALL, "--workdir", "gs://no-such-bucket/run", env=server.environment)
    assert_one_line_mistake(done, "there is no bucket no-such-bucket; create it first\n")


def test_nothing_is_at_an_address(server):
    done = run("eval.py", *SMALL, "--checkpoint", "gs://bucket/nothing", env=server.environment)
    assert_one_line_mistake(done, "there is nothing at gs://bucket/nothing")
    done = run("-m", "focalnet_jax.checkpoint", "list", "gs://bucket/nothing", env=server.environment)
    assert_one_line_mistake(done, "has no checkpoints")


def test_another_number_of_devices_resumes(server, in_bucket):
    env = server.environment
    killed_after_a_save(server, "devices")
    eight = env | {"XLA_FLAGS": env["XLA_FLAGS"] + " --xla_force_host_platform_device_count=8"}
    done = run("train.py", *RUN, "--workdir", "gs://bucket/devices", env=eight)
    assert done.returncode == 0, done.stderr
    assert "8 x cpu" in done.stdout
    assert "resumed from step" in done.stdout
