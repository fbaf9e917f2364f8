"""hf:// addresses on the command lines: every command that reads weights, one line for every mistake."""

import json
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from focalnet_jax.convert.weights import read_weights
from tests.commands import FOLDER, SMALL, assert_one_line_mistake, run
from tests.convert.golden_files import GOLDEN, OPTIONS

ADDRESS = "hf://me/focal"


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)).save(path)
    return path


@pytest.fixture(autouse=True)
def focal(hub, model_files):
    return hub.add("me/focal", model_files)


def test_convert_reads_an_address_and_reports_its_commit(environment, focal, tmp_path):
    done = run("-m", "focalnet_jax.convert", ADDRESS, tmp_path / "out.safetensors", "--to", "timm", env=environment)
    assert done.returncode == 0, done.stderr
    assert f"read      {ADDRESS}: huggingface" in done.stdout
    assert f"model.safetensors of commit {focal.refs['main']} of {ADDRESS}" in done.stdout
    assert read_weights(tmp_path / "out.safetensors").count == read_weights(ADDRESS).count


@pytest.mark.parametrize("command", ["predict", "visualize", "export"])
def test_commands_that_read_weights_take_an_address(environment, command, picture, tmp_path):
    arguments = {
        "predict": [picture, "--json", "--image-size=32", "--checkpoint", ADDRESS],
        "visualize": ["--images", picture, "--out", tmp_path / "maps", "--checkpoint", ADDRESS],
        "export": [ADDRESS, tmp_path / "f.stablehlo", "--platforms=cpu", "--image-size=32"],
    }
    done = run("-m", f"focalnet_jax.{command}", *arguments[command], env=environment)
    assert done.returncode == 0, done.stderr
    if command == "predict":
        assert json.loads(done.stdout)["picture"] == str(picture)


def test_training_starts_from_an_address_and_resuming_needs_no_hub(environment, focal, photos, tmp_path):
    held = read_weights(ADDRESS).config
    small = [each for each in FOLDER if not each.startswith(("--config.model.embed_dim", "--config.model.depths"))]
    small += [f"--config.data.path={photos}", "--config.init_head=drop", f"--config.init_from={ADDRESS}"]
    small += [f"--config.model.{key}={getattr(held, key)}" for key in ("embed_dim", "depths", "focal_levels")]
    train = ["train.py", *small, "--workdir", tmp_path / "run"]
    done = run(*train, env=environment)
    assert done.returncode == 0, done.stderr
    assert f"model.safetensors of commit {focal.refs['main']} of {ADDRESS}" in done.stdout
    assert json.loads((tmp_path / "run" / "config.json").read_text())["init_from"] == ADDRESS
    again = run(*train, env=environment | {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "empty")})
    assert again.returncode == 0, again.stderr


MISTAKES = {
    "hf:/me/focal": "Did you mean 'hf://me/focal'?",
    "hf://me/none": "does not exist on http",
    "hf://me/focal@v2": "hf://me/focal has no revision 'v2'",
    "hf://me/focal/model.safetensor": "Did you mean 'model.safetensors'?",
    "hf://datasets/me/focal": "is a data set on the hub; expected a model",
}


@pytest.mark.parametrize("address", MISTAKES)
def test_a_wrong_address_is_one_line(environment, address, tmp_path):
    done = run("-m", "focalnet_jax.convert", address, tmp_path / "x.safetensors", "--to=timm", env=environment)
    assert_one_line_mistake(done, MISTAKES[address])
    assert list(tmp_path.glob("x*")) == []


def test_an_unreachable_hub_fails_at_once_and_with_one_line(environment, tmp_path):
    gone = environment | {"HF_ENDPOINT": "http://127.0.0.1:9"}
    begun = time.monotonic()
    done = run("-m", "focalnet_jax.convert", ADDRESS, tmp_path / "x.safetensors", "--to=timm", env=gone)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "http://127.0.0.1:9 cannot be reached" in done.stderr
    assert time.monotonic() - begun < 30


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-m", "focalnet_jax.checkpoint", "list", ADDRESS], "stores weights, not runs; expected a workdir"),
        (["-m", "focalnet_jax.report", ADDRESS], "stores weights, not runs; expected a workdir"),
        (["train.py", *SMALL, "--workdir=x", f"--config.continue_from={ADDRESS}"], f"give init_from={ADDRESS}"),
        (["train.py", *SMALL, f"--workdir={ADDRESS}"], "expected a local path or gs://BUCKET/NAME"),
    ],
)
def test_where_a_run_is_expected_an_address_is_refused(environment, hub, arguments, message, tmp_path):
    done = run(*arguments, env=environment)
    assert_one_line_mistake(done, message)
    assert ADDRESS in done.stderr
    assert not hub.requests


WITHOUT = """
import sys
sys.modules["huggingface_hub"] = None  # as if it were not installed
sys.argv = ["convert", *sys.argv[1:]]
from focalnet_jax.convert.__main__ import main
from focalnet_jax.programs.run_command import run_command
run_command(main)
"""


def test_without_the_library_the_error_names_the_command_that_installs_it(environment, tmp_path):
    done = run("-c", WITHOUT, ADDRESS, tmp_path / "x.safetensors", "--to=timm", env=environment)
    assert_one_line_mistake(done, f"{ADDRESS} needs huggingface_hub: pip install 'focalnet_jax[hub]'")


def test_local_commands_do_not_import_the_library():
    modules = ", ".join(f"focalnet_jax.{name}" for name in ("convert.__main__", "inference", "train", "training.run"))
    program = f"import sys, focalnet_jax, {modules}; focalnet_jax.list_models(pretrained=True)"
    program += "; from focalnet_jax.convert.weights import read_weights"
    program += f"; read_weights({str(GOLDEN / 'timm_lrf.safetensors')!r}, options={OPTIONS['timm_lrf']})"
    program += "; sys.exit('huggingface_hub' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
