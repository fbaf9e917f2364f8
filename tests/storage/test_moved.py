"""A run that is copied between a disk and a bucket resumes there as if it had stayed."""

import shutil

from focalnet_jax.checkpoint.weights import read_arrays
from tests.commands import run
from tests.storage.conftest import RUN
from tests.storage.test_runs import rows


def state(workdir):
    """All arrays of the last step."""
    step = workdir / "checkpoints" / "60"
    arrays = {item: read_arrays(step, item) for item in ("params", "training")}
    return {(item, name): array.tobytes() for item, found in arrays.items() for name, array in found.items()}


def test_a_run_moves_into_a_bucket_and_back(server, finished, tmp_path):
    original, moved, back = finished[0], tmp_path / "moved", tmp_path / "back"
    shutil.copytree(original, moved, ignore=shutil.ignore_patterns("60", "tensorboard"))
    server.copy_from(moved, "moved")
    done = run("train.py", *RUN, "--workdir", "gs://bucket/moved", env=server.environment)
    assert done.returncode == 0, done.stderr
    assert "resumed from step 56" in done.stdout
    server.copy_to("moved", back)
    assert state(back) == state(original)
    assert rows(server.read("moved/metrics.jsonl")) == rows((original / "metrics.jsonl").read_bytes())

    shutil.rmtree(back / "checkpoints" / "60")
    done = run("train.py", *RUN, "--workdir", back)
    assert done.returncode == 0, done.stderr
    assert "resumed from step 56" in done.stdout
    assert state(back) == state(original)
    assert rows((back / "metrics.jsonl").read_bytes()) == rows((original / "metrics.jsonl").read_bytes())
