"""Paths may begin with `~` on every command line, in config files and in Python."""

import json
import shutil
from importlib import import_module
from pathlib import Path

import pytest
from PIL import Image

import focalnet_jax
from focalnet_jax.programs.config_files import load_config
from focalnet_jax.programs.flags import with_home
from tests.commands import ENVIRONMENT, FOLDER, run

CACHE = ENVIRONMENT.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))  # contains the compiled C++ library


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", CACHE)
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def called(command, *arguments):
    return import_module(f"focalnet_jax.{command}").main(list(arguments))


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("~/a", "{home}/a"),
        ("~", "{home}"),
        ("--out=~/a", "--out={home}/a"),
        ("--config.data.path=~/a b", "--config.data.path={home}/a b"),
        ("--config=~/mine.py:small", "--config={home}/mine.py:small"),
        ("--config.data.path=a~/b", "--config.data.path=a~/b"),
        ("~no such user/a", "~no such user/a"),
        ("a/~", "a/~"),
    ],
)
def test_only_a_tilde_at_the_beginning_of_a_path_is_the_home_directory(home, argument, expected):
    assert with_home(argument) == expected.format(home=home)


def test_train_eval_and_what_reads_their_workdir_take_it(home, photos):
    shutil.copytree(photos, home / "images")
    env = ENVIRONMENT | {"HOME": str(home), "XDG_CACHE_HOME": CACHE}
    small = [*FOLDER, "--config.total_steps=1", "--config.schedule.warmup_steps=0", "--config.data.path=~/images"]
    done = run("train.py", *small, "--workdir=~/run", env=env)
    assert done.returncode == 0, done.stderr
    assert {entry.name for entry in home.iterdir()} - {".cache"} == {"images", "run"}
    measured = run("eval.py", *small, "--checkpoint=~/run", env=env)
    assert json.loads(measured.stdout.splitlines()[-1])["examples"] == 10
    again = run("train.py", *small, "--config.init_from=~/run", "--workdir=~/again", env=env)
    assert f"weights of {home}/run/checkpoints/1" in again.stdout
    assert called("checkpoint.__main__", "list", "~/run") == 0
    assert called("convert.__main__", "~/run", "~/out.safetensors", "--to=timm") == 0
    assert called("predict", "~/images/val/china/0.jpg", "--checkpoint=~/run") == 0
    assert focalnet_jax.load_model("~/run").config.embed_dim == 16
    assert called("report", "~/run", "--out=~/report.png") == 0
    assert {"report.png", "out.safetensors"} <= {entry.name for entry in home.iterdir()}


def test_a_preparation_takes_it_in_every_flag(home):
    for name in ("a", "b"):
        (home / "images" / "train" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(home / "images" / "train" / name / "0.png")
    (home / "classes.txt").write_text("b\na\n")
    flags = ["--source=~/images", "--out=~/prepared", "--classes=~/classes.txt", "--processes=1"]
    assert called("data.prepare.__main__", "imagefolder", *flags) == 0
    assert list((home / "prepared").glob("*/*/card.json"))
    assert not list(Path.cwd().glob("~*"))


def test_a_config_file_takes_it(home, tmp_path):
    text = "from focalnet_jax.config import default_config\n\ndef get_config(variant):\n    c = default_config()\n"
    (tmp_path / "mine.py").write_text(f"{text}    c.data.path, c.init_from = '~/images', '~/run'\n    return c\n")
    config = load_config(str(tmp_path / "mine.py"))
    assert (config.data.path, config.init_from) == (f"{home}/images", f"{home}/run")
