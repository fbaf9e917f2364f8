"""Training, evaluation and prediction on a folder of images need three flags, and automatic choices are kept."""

import json

import jax
import numpy as np
import pytest
from PIL import Image

from focalnet_jax.config import flatten
from focalnet_jax.data.held_out import open_split
from focalnet_jax.distributed.mesh import make_mesh
from focalnet_jax.errors import UserError
from focalnet_jax.programs.config_files import load_config
from focalnet_jax.training.resolve import resolve, with_open_warmup
from focalnet_jax.training.run import set_up
from tests.commands import metrics, run

RECIPE = "--config=configs/own_folder.py"
SHORT = ["--config.total_steps=3", "--config.model.embed_dim=16", "--config.model.depths=(1,)"]
MESH = make_mesh({"data": 1, "fsdp": 1, "tensor": 1}, jax.devices()[:1])


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Class folders without splits."""
    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for label, name in enumerate(("ant", "bee", "cow")):
        (root / name).mkdir()
        for index in range(12 + 10 * label):
            pixels = rng.integers(60 * label, 60 * label + 100, (20, 24, 3), np.uint8)
            Image.fromarray(pixels).save(root / name / f"{index}.png")
    return root


@pytest.fixture(scope="module")
def trained(images, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "own"
    done = run("train.py", RECIPE, f"--config.data.path={images}", *SHORT, "--workdir", workdir)
    assert done.returncode == 0, done.stderr
    return workdir, done.stdout


def test_chosen_values_are_printed_and_stored(images, trained):
    workdir, output = trained
    stored = json.loads((workdir / "config.json").read_text())
    assert stored["model"]["num_classes"] == 3
    assert (stored["precision"], stored["batch_size"], stored["data"]["image_size"]) == ("float32", 8, 64)
    assert "chosen     model.name=focalnet_tiny_srf" in output
    assert "model.num_classes=3" in output
    assert "hint       training starts from fresh weights" in output
    assert "of 66 images are held out for evaluation, chosen by their file names (data.held_out=0.2)" in output
    assert f"there is no {images}/val" in output


def test_a_run_that_continues_it_chooses_its_own_warm_up(images, trained, tmp_path):
    workdir, _ = trained
    given = [f"--config.data.path={images}", f"--config.continue_from={workdir}", *SHORT, "--config.total_steps=40"]
    first = json.loads((workdir / "config.json").read_text())
    for number, (warmup, expected) in enumerate((([], 2), (["--config.schedule.warmup_steps=9"], 9))):
        config = set_up(load_config("configs/own_folder.py", [*given, *warmup]), tmp_path / str(number)).config
        assert config.schedule.warmup_steps == expected
        assert config.schedule.learning_rate == first["schedule"]["learning_rate"]
    set_by_user = first | {"schedule": first["schedule"] | {"warmup_steps": 7}}
    assert with_open_warmup(set_by_user, 53) == set_by_user


def test_the_same_flags_resume_it_and_evaluate_it(images, trained):
    workdir, _ = trained
    given = [RECIPE, f"--config.data.path={images}"]
    again = run("train.py", *given, *SHORT, "--workdir", workdir)
    assert (again.returncode, "already" in again.stdout) == (0, True)
    measured = run("eval.py", *given, "--checkpoint", workdir)
    assert measured.returncode == 0, measured.stderr
    result, last = json.loads(measured.stdout.splitlines()[-1]), metrics(workdir)[-1]
    assert result["examples"] == last["eval/examples"]
    assert result["loss"] == pytest.approx(last["eval/loss"], rel=1e-6)
    named = run("-m", "focalnet_jax.predict", images / "ant" / "0.png", "--checkpoint", workdir)
    assert "ant" in named.stdout
    drawn = run("-m", "focalnet_jax.report", workdir, "--out", workdir.parent / "report.png")
    assert drawn.returncode == 0, drawn.stderr


def test_a_run_from_weights_takes_their_model_and_picture_size(images, trained, tmp_path, capsys):
    workdir, _ = trained
    config = load_config("configs/own_folder.py", [f"--config.data.path={images}", f"--config.init_from={workdir}"])
    source = open_split(config.data, "train")
    chosen = resolve(config, MESH, source)
    assert (chosen.model.embed_dim, tuple(chosen.model.depths), chosen.data.image_size) == (16, (1,), 64)
    assert chosen.init_head == "keep"
    assert chosen.schedule.learning_rate < 2e-4
    assert "hint" not in capsys.readouterr().out
    source.class_names = ("ant", "bee", "dog")
    assert resolve(config, MESH, source).init_head == "drop"
    done = run(
        "train.py",
        RECIPE,
        *(f"--config.{key}" for key in (f"data.path={images}", f"init_from={workdir}", "total_steps=1")),
        "--workdir",
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "weights of" in done.stdout


class Sized:
    """A source with a given number of examples and two classes."""

    class_names = ("a", "b")

    def __init__(self, examples):
        self.examples = examples

    def __len__(self):
        return self.examples


@pytest.mark.parametrize("examples", [2, 9, 60, 1000, 30_000, 2_000_000])
def test_batch_and_duration_fit_sets_of_any_size(examples):
    config = load_config("configs/own_folder.py", ["--config.data.path=none"])
    chosen = resolve(config, MESH, Sized(examples))
    assert 1 <= chosen.batch_size <= min(32, examples)
    assert 20 <= chosen.total_epochs <= 200
    steps = chosen.total_epochs * (examples // chosen.batch_size)
    assert 0 <= chosen.schedule.warmup_steps <= 0.06 * steps
    assert 1e-4 < chosen.schedule.learning_rate <= 1e-3


def test_a_batch_divides_over_devices_and_micro_batches():
    config = load_config("configs/own_folder.py", ["--config.data.path=none", "--config.accumulate_steps=3"])
    mesh = make_mesh({"data": 2, "fsdp": 1, "tensor": 1}, jax.devices()[:2])
    assert resolve(config, mesh, Sized(1000)).batch_size % 6 == 0


def test_what_is_stated_is_kept():
    stated = ["--config.batch_size=48", "--config.total_steps=9", "--config.schedule.warmup_steps=4"]
    config = load_config("configs/own_folder.py:base_lrf", ["--config.data.path=none", *stated])
    chosen = flatten(resolve(config, MESH, Sized(1000)))
    assert chosen["model.name"] == "focalnet_base_lrf"
    assert chosen["model.embed_dim"] is None
    assert (chosen["batch_size"], chosen["total_steps"], chosen["total_epochs"]) == (48, 9, None)
    assert chosen["schedule.warmup_steps"] == 4


def test_auto_is_a_word_of_the_command_line():
    config = load_config("configs/quickstart.py", [f"--config.{key}=auto" for key in ("batch_size", "data.image_size")])
    assert (config.batch_size, config.data.image_size) == (None, None)
    chosen = resolve(config, MESH, Sized(1347))
    assert (chosen.batch_size, chosen.data.image_size) == (32, 64)
    with pytest.raises(UserError, match="seed=auto"):
        load_config("configs/quickstart.py", ["--config.seed=auto"])


def test_without_data_what_depends_on_them_is_refused():
    config = load_config("configs/own_folder.py", optional=["data.path"])
    with pytest.raises(UserError, match=r"model.num_classes=auto is chosen from the training images"):
        resolve(config, MESH)


def test_what_a_run_has_chosen_is_what_is_shown(images, trained, tmp_path, capsys):
    from focalnet_jax.programs.show import main

    given = [RECIPE, f"--config.data.path={images}", f"--out={tmp_path / 'grid.png'}"]
    assert main([*given, f"--workdir={trained[0]}"]) == 0
    assert "chosen     " not in capsys.readouterr().out
    with pytest.raises(UserError, match=f"--workdir {tmp_path} has no config.json; expected the workdir of a run"):
        main([*given, f"--workdir={tmp_path}"])
    assert main([*given, "--config.batch_size=16"]) == 0
    output = capsys.readouterr().out
    assert "chosen     model.name=focalnet_tiny_srf" in output
    assert "16 of 16 images" in output
    assert "hint" not in output  # no training
