"""A run is continued in a new workdir, with the same state and order of examples and a new schedule."""

import json
import re
import shutil
from functools import reduce
from pathlib import Path
from types import SimpleNamespace

import pytest

from focalnet_jax.checkpoint.steps import read_metadata
from focalnet_jax.config import to_json
from focalnet_jax.data.digits_source import DigitsSource
from focalnet_jax.distributed import startup
from focalnet_jax.errors import UserError
from focalnet_jax.programs.config_files import load_config
from focalnet_jax.tasks import task_kind
from focalnet_jax.training import resume, start
from focalnet_jax.training.run import set_up
from focalnet_jax.training.start import resumed_config, start_task
from focalnet_jax.training.stored_config import differences
from tests.commands import SMALL, assert_one_line_mistake, losses, metrics, run, saved_params
from tests.conftest import made_once

TINY = [
    *SMALL,
    "--config.model.depths=(1,)",
    "--config.model.drop_path_rate=0.2",
    "--config.ema_decay=0.9",
    "--config.checkpoint_every_steps=1",
    "--config.schedule.warmup_epochs=none",
]
WARM = (
    "--config.schedule.warmup_steps=8"  # during the warm-up, the learning rate does not depend on the length of the run
)


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """The workdir of a finished run of 4 steps."""
    return made_once(tmp_path_factory, "short", *TINY, WARM, "--config.total_steps=4")[0]


@pytest.fixture(scope="module")
def longer(short, tmp_path_factory):
    """The workdir and output of a continuation of 4 more steps."""
    return made_once(tmp_path_factory, "longer", *TINY, *continuing(short))


def continuing(workdir):
    return [f"--config.continue_from={workdir}", "--config.total_steps=4", "--config.schedule.warmup_steps=2"]


def test_more_steps_in_the_same_workdir_are_refused_with_the_ways_there_are(short):
    before = {path: path.stat().st_mtime_ns for path in short.rglob("*")}
    for longer in ("--config.total_steps=8", "--config.total_epochs=1"):
        refused = run("train.py", *TINY, WARM, longer, "--workdir", short)
        assert_one_line_mistake(refused, f"--config.continue_from={short} takes weights, optimizer state and average")
        assert f"--config.init_from={short} takes only the weights" in refused.stderr
    assert {path: path.stat().st_mtime_ns for path in short.rglob("*")} == before


def test_a_continued_run_begins_with_the_state_and_the_examples_that_come_next(short, longer, tmp_path):
    whole = run("train.py", *TINY, WARM, "--config.total_steps=8", "--workdir", tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    assert losses(short) == {step: loss for step, loss in losses(tmp_path / "whole").items() if step <= 4}
    assert list(losses(longer[0])) == [5, 6, 7, 8]
    assert losses(longer[0])[5] == losses(tmp_path / "whole")[5]


def test_its_schedule_is_its_own_and_is_printed(longer):
    workdir, output = longer
    rates = [row["train/learning_rate"] for row in metrics(workdir) if "train/learning_rate" in row]
    assert rates[0] == pytest.approx(1e-6)
    assert rates[1] == pytest.approx(1e-3, rel=1e-2)  # half of 2e-3
    assert rates[2] > rates[3] > 1e-5
    assert "checkpoints/4: weights, optimizer state, 4 steps" in output
    assert "schedule   a new one: the learning rate begins at 1e-06 in step 5, rises to" in output


def test_a_run_that_ends_within_its_warm_up_says_so(short, tmp_path, capsys):
    settings = [*TINY[1:], f"--config.continue_from={short}", "--config.total_steps=4", WARM]
    set_up(load_config("configs/quickstart.py", settings), tmp_path)
    slope = (2e-3 - 1e-6) / 8
    rate = f"rises to {1e-6 + 3 * slope:.3g} in step 8, within its warm-up of 8 steps"
    assert f"the learning rate begins at 1e-06 in step 5 and {rate}" in capsys.readouterr().out


def test_a_continued_run_resumes_to_the_same_bits_without_the_first_one(short, longer, tmp_path):
    first, again = tmp_path / "first", tmp_path / "again"
    shutil.copytree(short, first)
    done = run("train.py", *TINY, *continuing(first), "--config.keep_latest=9", "--workdir", again)
    assert done.returncode == 0, done.stderr
    shutil.rmtree(first)
    for step in (7, 8):
        shutil.rmtree(again / "checkpoints" / str(step))
    done = run("train.py", *TINY, *continuing(first), "--config.keep_latest=9", "--workdir", again)
    assert done.returncode == 0, done.stderr
    assert "resumed from step 6" in done.stdout
    for item in ("params", "ema", "training"):
        assert saved_params(again, 8, item) == saved_params(longer[0], 8, item)


def test_differences_from_the_continued_run_are_warnings(short, tmp_path):
    changed = [*TINY, *continuing(short), "--config.total_steps=1", "--config.optimizer.weight_decay=0.1"]
    done = run("train.py", *changed, "--workdir", tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "warning: differs from the continued run: optimizer.weight_decay was 0.05 and is now 0.1\n"


@pytest.mark.parametrize("first", [True, False])
def test_one_process_alone_warns(first, short, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(startup, "is_first", lambda: first)
    settings = [*TINY[1:], *continuing(short), "--config.optimizer.weight_decay=0.1", "--config.batch_size=512"]
    set_up(load_config("configs/quickstart.py", settings), tmp_path).checkpoints.close()
    warned = capsys.readouterr().err
    assert ("differs from the continued run" in warned) == first
    assert ("512 images at once need much memory" in warned) == first


def without(metadata, *keys):
    """Returns a copy of the metadata of a checkpoint without some dotted keys."""
    copied = json.loads(json.dumps(metadata))
    for key in keys:
        *parents, leaf = key.split(".")
        del reduce(dict.__getitem__, parents, copied)[leaf]
    return copied


@pytest.fixture
def lacking(short, monkeypatch):
    """A function that deletes keys from the metadata that is read from the checkpoint of the run of 4 steps."""
    checkpoint = short / "checkpoints" / "4"
    whole = read_metadata(checkpoint)

    def delete(*keys):
        for module in (start, resume):
            monkeypatch.setattr(module, "read_metadata", lambda path: without(whole, *keys))
        return checkpoint

    return delete


@pytest.mark.parametrize(
    "key", ["schedule.warmup_steps", "schedule", "total_steps", "total_epochs", "batch_size", "data", "optimizer"]
)
def test_a_key_that_the_config_of_the_continued_run_lacks_means_its_default(key, lacking, short):
    lacking(f"config.{key}")
    auto = ["--config.batch_size=auto", "--config.schedule.learning_rate=auto"]
    config = load_config("configs/quickstart.py", [*TINY[1:], f"--config.continue_from={short}", *auto])
    continued, origin = resumed_config(config, short / "none", None)
    assert continued.batch_size == (1024 if key == "batch_size" else load_config("configs/quickstart.py").batch_size)
    assert continued.schedule.learning_rate == (1e-3 if key == "schedule" else 2e-3)
    origin.describe(continued, DigitsSource("train"))


@pytest.mark.parametrize("keys", [["data"], ["data.examples"]])
def test_data_that_cannot_be_compared_is_a_warning_for_a_continued_run(keys, lacking, short):
    lacking(*keys)
    config = load_config("configs/quickstart.py", [*TINY[1:], *continuing(short)])
    continued, origin = resumed_config(config, short / "none", None)
    texts = origin.describe(continued, DigitsSource("train"))
    assert "the data cannot be compared, because the metadata of that run lacks data." in texts[-1]


def test_a_run_resumes_without_keys_that_have_defaults(lacking, short):
    checkpoint = lacking("data.substituted", "config.batch_size", "config.health", "versions", "command")
    auto = ["--config.batch_size=auto", WARM, "--config.total_steps=4"]
    config, origin = resumed_config(load_config("configs/quickstart.py", [*TINY[1:], *auto]), short / "checkpoints", 4)
    assert (config.batch_size, origin) == (1024, None)
    source = DigitsSource("train")
    task = SimpleNamespace(source=source, continue_run=lambda metadata, run: metadata)
    metadata, initial, substituted = start_task(config, task, checkpoint, None, None)
    assert (initial, substituted, metadata["classes"]) == (None, 0, list(source.class_names))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["data"], "lacks data.fingerprint and data.examples, so its data cannot be compared"),
        (["data.fingerprint"], "lacks data.fingerprint, so its data cannot be compared"),
        (["config"], "contains only weights"),
        (["classes"], "the metadata of this run lacks classes, the names of its outputs: give them with --config.data"),
    ],
)
def test_what_a_checkpoint_lacks_and_has_no_default_is_named(keys, message, lacking):
    checkpoint = lacking(*keys)
    config = load_config("configs/quickstart.py", [*TINY[1:], WARM, "--config.total_steps=4"])
    task = task_kind(config.task).make_task(config, DigitsSource("train"), evaluated=False)
    with pytest.raises(UserError, match=re.escape(message)):
        start_task(config, task, checkpoint, None, None)


def test_class_names_that_a_checkpoint_lacks_are_given_in_a_file(lacking, tmp_path):
    checkpoint = lacking("classes")
    names = tmp_path / "classes.txt"
    names.write_text("\n".join(DigitsSource("train").class_names) + "\n")
    given = [WARM, "--config.total_steps=4", f"--config.data.classes={names}"]
    config = load_config("configs/quickstart.py", [*TINY[1:], *given])
    task = task_kind(config.task).make_task(config, DigitsSource("train"), evaluated=False)
    resumed, _, _ = start_task(config, task, checkpoint, None, None)
    assert resumed.source.class_names == DigitsSource("train").class_names


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["--config.optimizer.name=sgd"], "Give the model and optimizer of that run"),
        (["--config.model.embed_dim=8"], "Give the model and optimizer of that run"),
        (["--config.profile_steps=(1,4)"], "the first step of the run is 5"),
        (["--config.init_from=elsewhere"], "continue_from and init_from are both set"),
        (["--config.continue_from=elsewhere"], "there is no checkpoint at 'elsewhere'"),
    ],
)
def test_what_cannot_be_continued_is_refused_and_leaves_nothing(short, tmp_path, overrides, message):
    refused = run("train.py", *TINY, *continuing(short), *overrides, "--workdir", tmp_path / "run")
    assert_one_line_mistake(refused, message)
    assert not (tmp_path / "run").exists()


def test_a_recipe_that_needs_weights_needs_none_to_be_continued():
    config = load_config("configs/finetune_imagenet1k.py", ["--config.data.path=d", "--config.continue_from=runs/a"])
    assert (config.init_from, config.init_head) == (None, "keep")


@pytest.mark.parametrize("given", ["runs/a", "runs/a/checkpoints", "runs/a/checkpoints/4", "./runs/a"])
def test_a_workdir_and_its_step_are_the_same_run_to_continue(given):
    step = str(Path("runs/a/checkpoints/4").absolute())
    stored = json.loads(to_json(load_config("configs/quickstart.py", [f"--config.continue_from={step}"])))
    assert differences(load_config("configs/quickstart.py", [f"--config.continue_from={given}"]), stored) == []
    other = load_config("configs/quickstart.py", ["--config.continue_from=runs/b"])
    assert differences(other, stored) == [f"continue_from was {step} and is now runs/b"]
