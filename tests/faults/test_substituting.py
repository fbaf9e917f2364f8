"""A run with an unreadable image substitutes it or names it, tested with real processes."""

import shutil

import pytest

from tests.commands import FOLDER, assert_one_line_mistake, losses, metrics, run


@pytest.mark.fault(29)
def test_an_unreadable_image_is_named(photos, tmp_path):
    shutil.copytree(photos, tmp_path / "data")
    broken = tmp_path / "data" / "train" / "china" / "3.jpg"
    broken.write_bytes(broken.read_bytes()[:999])
    arguments = [*FOLDER, f"--config.data.path={tmp_path / 'data'}", "--workdir", tmp_path / "run"]
    assert_one_line_mistake(run("train.py", *arguments), str(broken))
    steps = ["--config.total_steps=9", "--config.checkpoint_every_steps=4"]
    arguments = [*arguments[:-1], tmp_path / "allowed", *steps, "--config.data.max_unreadable=0.5"]
    allowed = run("train.py", *arguments)
    assert allowed.returncode == 0, allowed.stderr
    assert allowed.stderr.count(str(broken)) == 1  # reported once, however often it occurs
    counted = {row["step"]: row["data/substituted"] for row in metrics(tmp_path / "allowed") if "train/loss" in row}
    assert counted[3] == 1  # once per epoch
    assert counted[9] == 3
    shutil.rmtree(tmp_path / "allowed" / "checkpoints" / "9")
    again = run("train.py", *arguments)
    assert "resumed from step 8" in again.stdout
    assert {
        row["step"]: row["data/substituted"] for row in metrics(tmp_path / "allowed") if "train/loss" in row
    } == counted


def test_a_picture_that_cannot_be_read_costs_no_step(photos, tmp_path):
    shutil.copytree(photos, tmp_path / "data")
    broken = tmp_path / "data" / "val" / "china" / "z.jpg"
    broken.write_text("no picture")
    arguments = [*FOLDER, f"--config.data.path={tmp_path / 'data'}", "--workdir", tmp_path / "run"]
    assert_one_line_mistake(run("train.py", *arguments), str(broken))
    assert sorted(losses(tmp_path / "run")) == [1, 2, 3]
    shutil.copy(broken.with_name("0.jpg"), broken)
    again = run("train.py", *arguments)
    assert again.returncode == 0, again.stderr
    assert [row["step"] for row in metrics(tmp_path / "run")] == [1, 2, 3, 3]  # the evaluation is repeated
    assert "best eval/top1" in again.stdout
