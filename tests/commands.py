"""Runs train.py, eval.py and other commands as processes, and reads the files of their runs."""

import json
import os
import subprocess
import sys

from focalnet_jax.checkpoint.weights import read_arrays
from tests.forked import Forked
from tests.quick import QUICK

ENVIRONMENT = os.environ | {"XLA_FLAGS": QUICK}  # one device
SMALL = [
    "--config=configs/quickstart.py",
    "--config.model.embed_dim=16",
    "--config.model.depths=(2,)",
    "--config.data.image_size=16",
    "--config.data.eval_resize=16",
    "--config.total_steps=60",
    "--config.log_every_steps=1",
    "--config.grace_seconds=120",  # on a busy machine a save can take longer than the default
]


def command(script, *arguments):
    return [sys.executable, *map(str, (script, *arguments))]


def start(script, *arguments, env=ENVIRONMENT):
    """Starts a command with pipes, forked from a process that has loaded the libraries unless it needs others."""
    called = command(script, *arguments)
    at_import = {key for key in env.keys() | os.environ.keys() if key.startswith(("JAX_", "PYTHON"))}
    if script == "-c" or any(env.get(key) != os.environ.get(key) for key in at_import):
        return subprocess.Popen(called, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return Forked(called, env)


def run(script, *arguments, env=ENVIRONMENT):
    """Runs a command to its end; returns its exit code and output."""
    process = start(script, *arguments, env=env)
    try:
        stdout, stderr = process.communicate(timeout=900)  # ends only commands that hang
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return subprocess.CompletedProcess(script, process.returncode, stdout, stderr)


def first_line(process, beginning):
    """Returns the first line of a running command's stdout that starts with `beginning`."""
    for line in process.stdout:
        if line.startswith(beginning):
            return line
    raise AssertionError(process.communicate()[1])


def convert(*arguments):
    return run("-m", "focalnet_jax.convert", *arguments)


def metrics(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def losses(workdir):
    return {row["step"]: row["train/loss"] for row in metrics(workdir) if "train/loss" in row}


# At this rate the model learns enough in 60 steps that the second evaluation is clearly better than the first.
EVERY = [
    "--config.checkpoint_every_steps=7",
    "--config.eval_every_steps=30",
    "--config.schedule.learning_rate=2e-2",
    "--config.seed=1",
]
FOLDER = [
    *SMALL,
    "--config.data.source=folder",
    "--config.model.num_classes=2",
    "--config.batch_size=8",
    "--config.total_steps=3",
    "--config.schedule.warmup_steps=1",
]


def saved_params(workdir, step, item="params"):
    arrays = read_arrays(workdir / "checkpoints" / str(step), item)
    return {name: array.tobytes() for name, array in arrays.items()}


def assert_one_line_mistake(done, message):
    assert done.returncode == 2, done.stdout + done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
