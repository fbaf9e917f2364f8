"""A prepared data set is used for training, kills, resuming, evaluation and data.show."""

import json
import shutil
import signal
import time

import numpy as np
import pytest
from PIL import Image

from focalnet_jax.errors import UserError
from focalnet_jax.programs.show import main as show
from focalnet_jax.tasks.classification.captions import captions
from tests.commands import SMALL, assert_one_line_mistake, losses, run, start
from tests.data.pictures import SYNSETS, write_imagenet, write_pictures, write_planted

STEPS = 12
RECIPE = [
    *SMALL,
    "--config.data.source=tfds",
    "--config.model.num_classes=1000",
    "--config.batch_size=8",
    f"--config.total_steps={STEPS}",
    "--config.schedule.warmup_steps=2",
    "--config.checkpoint_every_steps=2",
    "--config.eval_every_steps=6",
    "--config.data.threads=2",
    "--config.augment.policy=rand-m9-mstd0.5-inc1",
    "--config.augment.color_jitter=0.2",
    "--config.augment.erase=0.25",
    "--config.augment.mixup=0.8",
    "--config.augment.cutmix=1.0",
    "--config.augment.mix_group=4",
]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A data set prepared from small ImageNet-1K tars that contain unusual files."""
    root = tmp_path_factory.mktemp("prepared")
    write_pictures(root / "pictures")
    write_planted(root / "pictures" / "train" / SYNSETS[0], SYNSETS[0])
    labels = write_imagenet(root / "pictures", root / "tars")
    made = run(
        "-m", "focalnet_jax.data.prepare", "imagenet1k", "--source", root / "tars", "--val-labels", labels,
        "--out", root / "out", "--processes", "1",
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    return root / "out"


@pytest.fixture(scope="module")
def undisturbed(prepared, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("undisturbed")
    done = run("train.py", *RECIPE, f"--config.data.path={prepared}", "--workdir", workdir)
    assert done.returncode == 0, done.stderr
    return workdir


@pytest.mark.fault(19)
def test_a_killed_run_resumes_on_two_hosts_with_the_same_losses(prepared, undisturbed, tmp_path):
    arguments = [*RECIPE, f"--config.data.path={prepared}", "--workdir", tmp_path]
    process = start("train.py", *arguments)
    deadline = time.monotonic() + 240
    while not list((tmp_path / "checkpoints").glob("4/commit_success.txt")) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    hosts = ["-m", "focalnet_jax.launch", "--processes", 2, "--devices-per-process", 1, "--", "train.py"]
    again = run(*hosts, *arguments, "--config.data.threads=1")
    assert again.returncode == 0, again.stderr
    assert "resumed from step" in again.stdout
    assert losses(tmp_path).keys() == losses(undisturbed).keys()
    # The images are the same; gradients are summed in a different order, 6e-8 per rounding.
    np.testing.assert_allclose(list(losses(tmp_path).values()), list(losses(undisturbed).values()), rtol=1e-5)


def test_every_validation_image_counts_once_and_the_sub_labels_of_a_larger_classifier_too(prepared, undisturbed):
    path = f"--config.data.path={prepared}"
    done = run("eval.py", *RECIPE, path, "--checkpoint", undisturbed, "--config.eval_batch_size=5")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["examples"] == 9
    few = run("eval.py", *RECIPE, path, "--checkpoint", undisturbed, "--config.eval_classes=2")
    assert_one_line_mistake(few, "eval_classes=2 evaluates only outputs 0 to 1")
    assert SYNSETS[2] in few.stderr


def test_other_data_is_refused(prepared, undisturbed, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(prepared, other)
    arguments = [*RECIPE, f"--config.data.path={other}", "--config.total_steps=14", "--workdir", undisturbed]
    card = next(other.glob("*/*/card.json"))
    card.write_text(card.read_text().replace('"fingerprint": "', '"fingerprint": "0'))
    refused = run("train.py", *arguments, f"--config.total_steps={STEPS}")
    assert_one_line_mistake(refused, "was trained on other data")
    typo = [f"--config.data.path={other}", "--config.data.train_split=trian"]
    sliced = run("train.py", *RECIPE, *typo, "--workdir", tmp_path / "run")
    assert_one_line_mistake(sliced, "has no split 'trian', or it is empty; expected train, val")


def test_labels_below_a_picture_stand_out_of_the_smoothing_and_no_others():
    assert captions(np.array([0.45, 0.55]), ("cat", "dog"), 0.05) == ["0.55 dog", "0.45 cat"]
    assert captions(np.array([0.05, 0.95]), ("cat", "dog"), 0.05) == ["0.95 dog"]
    assert captions(np.array([0.0, 0.7, 0.3]), ("n1", "n01440764", "n3"), 0.0) == [
        "0.70 tench",
        "0.30 n3",
    ]


def test_the_sheet_shows_the_batch_a_step_is_trained_on(prepared, tmp_path):
    arguments = [*RECIPE, f"--config.data.path={prepared}", "--images", "6", "--config.mesh.data=8"]
    for name, extra in (("first", []), ("again", []), ("later", ["--step", "5"])):
        assert show([*arguments, "--out", str(tmp_path / f"{name}.png"), *extra]) == 0
    sheets = {name: np.asarray(Image.open(tmp_path / f"{name}.png")) for name in ("first", "again", "later")}
    np.testing.assert_array_equal(sheets["first"], sheets["again"])
    assert sheets["first"].shape == sheets["later"].shape
    assert (sheets["first"] != sheets["later"]).any()
    assert sheets["first"].std() > 20  # not an empty sheet
    odd = run(
        "-m", "focalnet_jax.data.show", *arguments, "--out", tmp_path / "x.png", "--config.augment.mix_group=6"
    )  # fmt: skip
    assert_one_line_mistake(odd, "does not divide a batch of 8")
    with pytest.raises(UserError, match="cannot write --out"):
        show([*arguments, "--out", str(tmp_path / "no" / "x.png")])
