"""A stopped and resumed run of a detector has the same losses and weights, bit by bit, as an undisturbed one."""

import signal

import pytest

from tests.commands import first_line, losses, run, saved_params, start

STEPS = 12
FLAGS = [
    "--config.batch_size=8",
    f"--config.total_steps={STEPS}",
    "--config.checkpoint_every_steps=3",
    "--config.eval_every_steps=none",
    "--config.model.drop_path_rate=0.2",  # draws, as the samples of RoIs do
    "--config.ema_decay=0.9",
    "--config.grace_seconds=120",
]

# Saves half of the compilation.
ONE_CANVAS = ["--config.data.image_size=(96,96)", "--config.augment.long_side=96", "--config.inference.box=(96,96)"]


@pytest.mark.parametrize(
    ("recipe", "number", "canvas"),
    [
        pytest.param("mask_rcnn_coco", signal.SIGTERM, ONE_CANVAS, id="mask_rcnn_coco-stopped"),
        pytest.param("atss_coco", signal.SIGKILL, [], id="atss_coco-killed"),
    ],
)
def test_a_resumed_run_has_the_bits_of_an_undisturbed_one(recipe, number, canvas, tmp_path):
    flags = [f"--config=configs/{recipe}.py:smoke", *FLAGS, *canvas]
    undisturbed = run("train.py", *flags, "--workdir", tmp_path / "undisturbed")
    assert undisturbed.returncode == 0, undisturbed.stderr
    process = start("train.py", *flags, "--workdir", tmp_path / "run")
    first_line(process, "step  7/12")  # the save after step 6 began when that after step 3 was complete
    process.send_signal(number)
    _, stderr = process.communicate(timeout=200)
    assert process.returncode == (42 if number == signal.SIGTERM else -9), stderr
    resumed = run("train.py", *flags, "--workdir", tmp_path / "run")
    assert resumed.returncode == 0, resumed.stderr
    assert "resumed from step" in resumed.stdout
    assert losses(tmp_path / "run") == losses(tmp_path / "undisturbed")
    for item in ("params", "ema", "training"):
        assert saved_params(tmp_path / "run", STEPS, item) == saved_params(tmp_path / "undisturbed", STEPS, item)
