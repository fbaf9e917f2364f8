"""train.py, eval.py and the converter as a user types them: their files, and their errors."""

import json
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest

from tests.commands import ENVIRONMENT, EVERY, FOLDER, SMALL, assert_one_line_mistake, convert, losses, metrics, run


def test_a_run_leaves_what_the_contract_says(finished):
    workdir, stdout = finished
    assert {entry.name for entry in workdir.iterdir()} == {
        "metrics.jsonl",
        "config.json",
        "checkpoints",
        "saved.json",
        "tensorboard",
        "placement.txt",
    }
    rows = metrics(workdir)
    assert [row["step"] for row in rows if "train/loss" in row] == list(range(1, 61))
    assert {"train/loss", "train/learning_rate", "train/grad_norm", "images_per_second"} <= rows[5].keys()
    evaluations = [row for row in rows if "eval/top1" in row]
    assert [row["step"] for row in evaluations] == [30, 60]
    assert all(row["eval/examples"] == 450 for row in evaluations)
    kept = sorted(int(entry.name) for entry in (workdir / "checkpoints").iterdir() if entry.name.isdigit())
    assert kept[-3:] == [49, 56, 60]
    assert json.loads((workdir / "config.json").read_text())["total_steps"] == 60
    assert list((workdir / "tensorboard").iterdir())
    for part in ("1 x cpu", "parameters", "MACs", "batch", "fresh weights", "loss", "images/s", "eta", "epoch"):
        assert part in stdout
    assert "\nops        aggregation " in stdout


def test_a_finished_run_is_left_alone(finished):
    workdir, _ = finished
    before = (workdir / "metrics.jsonl").read_text()
    again = run("train.py", *SMALL, *EVERY, "--workdir", workdir)
    assert (again.returncode, "already" in again.stdout) == (0, True)
    assert (workdir / "metrics.jsonl").read_text() == before


def test_another_config_does_not_touch_the_run(finished):
    workdir, _ = finished
    before = sorted(str(path) for path in workdir.rglob("*"))
    refused = run("train.py", *SMALL, *EVERY, "--workdir", workdir, "--config.schedule.learning_rate=0.5")
    assert_one_line_mistake(refused, "schedule.learning_rate was 0.02 and is now 0.5")
    assert sorted(str(path) for path in workdir.rglob("*")) == before


@pytest.mark.parametrize("batch_size", [64, 7])  # 450 and 1000: tests/training/test_step.py
def test_eval_ends_with_json_over_every_example_whatever_the_batch(finished, batch_size):
    workdir, _ = finished
    done = run("eval.py", *SMALL, "--checkpoint", workdir, f"--config.eval_batch_size={batch_size}")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    last = [row for row in metrics(workdir) if "eval/top1" in row][-1]
    assert result["examples"] == 450
    assert (result["top1"], result["top5"]) == (last["eval/top1"], last["eval/top5"])
    assert result["loss"] == pytest.approx(last["eval/loss"], rel=1e-6)


def test_weights_of_another_run_start_a_new_one(finished, tmp_path):
    workdir, _ = finished
    start = [*SMALL, "--config.total_steps=1", f"--config.init_from={workdir}"]
    kept = run("train.py", *start, "--workdir", tmp_path / "kept")
    assert kept.returncode == 0, kept.stderr
    assert losses(tmp_path / "kept")[1] < 2.25  # 60 steps reached 2.0; new weights give log(10) = 2.30
    eleven = [*start, "--config.model.num_classes=11"]
    assert_one_line_mistake(run("train.py", *eleven, "--workdir", tmp_path / "refused"), "init_head=drop")
    dropped = run("train.py", *eleven, "--config.init_head=drop", "--workdir", tmp_path / "dropped")
    assert dropped.returncode == 0, dropped.stderr
    assert "weights of" in dropped.stdout


def test_weights_travel_to_another_format_and_are_evaluated_and_trained_on_alike(finished, tmp_path):
    workdir, _ = finished
    done = convert(workdir, tmp_path / "out.safetensors", "--to", "timm")
    assert done.returncode == 0, done.stderr
    assert "every key was used" in done.stdout
    theirs, ours = (
        json.loads(run("eval.py", *SMALL, "--checkpoint", path).stdout.splitlines()[-1])
        for path in (tmp_path / "out.safetensors", workdir)
    )
    assert theirs | {"checkpoint": ""} == ours | {"checkpoint": ""}
    start = [*SMALL, "--config.total_steps=1"]
    for name, source in (("theirs", tmp_path / "out.safetensors"), ("ours", workdir)):
        done = run("train.py", *start, f"--config.init_from={source}", "--workdir", tmp_path / name)
        assert done.returncode == 0, done.stderr
    assert losses(tmp_path / "theirs") == losses(tmp_path / "ours")
    again = convert(workdir, tmp_path / "out.safetensors", "--to", "timm")
    assert_one_line_mistake(again, "already exists")


# Nearly all other runs in the tests use quickstart.
@pytest.mark.parametrize(
    "recipe", sorted(path.stem for path in Path("configs").glob("*.py") if "quickstart" not in path.stem)
)
def test_every_recipe_takes_a_smoke_step(recipe, tmp_path):
    arguments = [f"--config=configs/{recipe}.py:smoke", "--config.total_steps=1", "--workdir", tmp_path]
    done = run("train.py", *arguments)
    assert done.returncode == 0, done.stderr
    assert [row["step"] for row in metrics(tmp_path)] == [1, 1]
    assert np.isfinite(losses(tmp_path)[1])
    task = recipe.rpartition("_")[2]
    assert metrics(tmp_path)[-1]["eval/examples"] == {"ade20k": 128, "coco": 32}.get(task, 450)


def test_a_folder_of_photos_trains_and_evaluates(photos, tmp_path):
    env = ENVIRONMENT | {"XLA_FLAGS": f"{ENVIRONMENT['XLA_FLAGS']} --xla_force_host_platform_device_count=8"}
    done = run("train.py", *FOLDER, f"--config.data.path={photos}", "--workdir", tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    assert "8 = 1 per device x 8" in done.stdout
    assert [row["eval/examples"] for row in metrics(tmp_path) if "eval/top1" in row] == [10]
    measured = run("eval.py", *FOLDER, f"--config.data.path={photos}", "--checkpoint", tmp_path)
    assert json.loads(measured.stdout.splitlines()[-1])["examples"] == 10


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["--config.model.name=focalnet_tiny_lfr"], "focalnet_tiny_lrf"),
        (["--config.data.source=digits"], "add --config.data.source=folder"),
        (["--config.model.mlp_ratio=0.001"], "no hidden channel"),
        (["--config.eval_every_epochs=1e300"], "expected 1 to 2**31 - 1 steps"),
        (["--config.schedule.warmup_steps=-1"], "schedule.warmup_steps=-1: expected 0 to"),
        (["--config.leraning_rate=1"], "schedule.learning_rate"),
        (["--config.batch_size=ten"], "an integer"),
        (["--config.batch_size=10"], "8 or 16"),
        (["--config.data.path=missing"], "data.path=missing does not exist"),
        (["--config.data.eval_split=test"], "no split 'test'"),
        (["--config.model.num_classes=1"], "model.num_classes=2"),
        (["--config.precision=float61"], "bfloat16"),
        (["--config.init_from=missing"], "weights file at missing"),
        (["--config.mesh.data=9"], "8 devices"),
        (["--config.seed=-1"], "[0, 2**32)"),
        (["--config.data.image_size=4", "--config.model.depths=(1,1)"], "at least 8x8"),
        (["--config.data.eval_resize=8"], "data.eval_resize=8"),
        (["--config.augment.crop_scale=(0.5,2.0)"], "fraction of the area"),
        (["--config.model.focal_windows=4"], "odd"),
        (["--config.remat=ful"], "full"),
        (["--config.batch_size=32"], "24 training examples"),
    ],
)
def test_a_mistake_gets_one_line_exit_code_2_and_leaves_nothing(photos, tmp_path, overrides, message):
    env = ENVIRONMENT | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    arguments = [*FOLDER, f"--config.data.path={photos}", *overrides, "--workdir", tmp_path / "run"]
    assert_one_line_mistake(run("train.py", *arguments, env=env), message)
    assert not (tmp_path / "run").exists()


def test_a_workdir_that_cannot_be_made_or_read_is_refused(tmp_path):
    (tmp_path / "file").write_text("in the way")
    assert_one_line_mistake(run("train.py", *SMALL, "--workdir", tmp_path / "file" / "run"), "cannot write to")
    (tmp_path / "config.json").write_text("[1, 2]")
    assert_one_line_mistake(run("train.py", *SMALL, "--workdir", tmp_path), "config.json is damaged")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").write_text("in the way")
    assert_one_line_mistake(run("train.py", *SMALL, "--workdir", tmp_path / "run"), "cannot write checkpoints")
    assert_one_line_mistake(run("train.py", *SMALL, "--workdir", "http://bucket/run"), "expected a local path or gs://")
    assert_one_line_mistake(run("train.py", *SMALL, "--workdir", ""), "expected a local directory or gs://BUCKET/NAME")


def test_a_lost_config_file_does_not_let_another_config_in(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "run")
    (tmp_path / "run" / "config.json").unlink()
    other = run("train.py", *SMALL, *EVERY, "--workdir", tmp_path / "run", "--config.seed=5")
    assert_one_line_mistake(other, "seed was 1 and is now 5")


def test_splits_and_checkpoints_must_mean_the_same_by_a_label(photos, tmp_path):
    shutil.copytree(photos, tmp_path / "data")
    data = f"--config.data.path={tmp_path / 'data'}"
    shutil.copytree(tmp_path / "data" / "val" / "china", tmp_path / "data" / "val" / "more")
    refused = run("train.py", *FOLDER, data, "--workdir", tmp_path / "run")
    assert_one_line_mistake(refused, "split val has 1 class that split train lacks: more")
    shutil.rmtree(tmp_path / "data" / "val" / "more")
    assert run("train.py", *FOLDER, data, "--workdir", tmp_path / "run").returncode == 0
    shutil.rmtree(tmp_path / "data" / "val" / "china")
    fewer = run("eval.py", *FOLDER, data, "--checkpoint", tmp_path / "run")
    assert f"split val: 1 of the 2 classes of {tmp_path / 'run'}, matched by name; without china" in fewer.stdout
    assert json.loads(fewer.stdout.splitlines()[-1])["examples"] == 5


@pytest.mark.parametrize("script", ["train.py", "eval.py"])
def test_help_explains_and_missing_flags_are_named(script):
    shown = run(script, "--help")
    assert shown.returncode == 0
    assert "--config" in shown.stdout
    assert Path(script).stem in shown.stdout
    missing = run(script, "--config", "configs/quickstart.py")
    assert_one_line_mistake(missing, "required")


def test_the_programs_own_report_lists_every_extra():
    extras = tomllib.loads(Path("pyproject.toml").read_text())["project"]["optional-dependencies"]
    report = Path("focalnet_jax/__main__.py").read_text()  # its output depends on the installed packages
    assert not [name for name in extras if f"focalnet_jax[{name}]" not in report]
