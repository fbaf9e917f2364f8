"""Later versions resume, evaluate, convert and report the runs of version 0.1.0 in tests/old_runs."""

import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest

from tests.commands import convert, losses, metrics, run
from tests.processes import ROUNDING

# The flags of the runs. `processes` ran in two processes with one device each, and also resumes in a single process.
_SMALL = [
    "--config.model.embed_dim=8",
    "--config.model.depths=(1,1)",
    "--config.model.focal_levels=2",
    "--config.model.focal_windows=3",
    "--config.data.image_size=32",
    "--config.batch_size=8",
    "--config.total_steps=6",
    "--config.log_every_steps=1",
    "--config.checkpoint_every_steps=3",
    "--config.eval_every_steps=6",
    "--config.keep_latest=2",
    "--config.eval_batch_size=64",
]
_DIGITS = ["--config=configs/quickstart.py", *_SMALL, "--config.schedule.warmup_epochs=0"]
FLAGS = {
    "plain": _DIGITS,
    "processes": _DIGITS,
    "average": [
        "--config=configs/imagenet1k.py:tiny_lrf,smoke",
        *_SMALL,
        "--config.ema_decay=0.9",
        "--config.model.num_classes=10",
        "--config.optimizer.learning_rate_scales=(('^patch_embed/',0),)",
    ],
}
# The run `average` computes in bfloat16, where a different CPU may round a product differently: 2^-8 per rounding.
TOLERANCE = {"plain": ROUNDING, "processes": ROUNDING, "average": 2**-8}


@pytest.fixture(params=FLAGS)
def old(request, tmp_path):
    with tarfile.open(Path(__file__).parent / "old_runs" / f"{request.param}.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / request.param


def test_an_old_run_resumes_and_computes_the_same(old):
    expected = losses(old)
    # Imitates a run that was killed between two saves.
    shutil.rmtree(old / "checkpoints" / "6")
    (old / "saved.json").write_text((old / "saved.json").read_text().replace("6", "3"))
    done = run("train.py", *FLAGS[old.name], "--workdir", old)
    assert done.returncode == 0, done.stderr
    assert "resumed from step 3" in done.stdout
    resumed = losses(old)
    assert resumed.keys() == expected.keys()
    np.testing.assert_allclose(list(resumed.values()), list(expected.values()), TOLERANCE[old.name])


def test_an_old_run_evaluates_to_what_it_recorded(old):
    recorded = next(row for row in reversed(metrics(old)) if "eval/top1" in row)
    done = run("eval.py", *FLAGS[old.name], "--checkpoint", old)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["examples"] == 450
    np.testing.assert_allclose(result["loss"], recorded["eval/loss"], TOLERANCE[old.name])
    assert abs(result["top1"] - recorded["eval/top1"]) <= 100 / 450  # one image may change its class


def test_an_old_run_converts_and_is_reported(old, tmp_path):
    done = convert(old, tmp_path / "weights.safetensors", "--to", "microsoft")
    assert done.returncode == 0, done.stderr
    done = run("-m", "focalnet_jax.report", old, "--out", tmp_path / "report.html")
    assert done.returncode == 0, done.stderr
    assert "<td>10.00 %</td>" in (tmp_path / "report.html").read_text()  # its top-1 accuracy
