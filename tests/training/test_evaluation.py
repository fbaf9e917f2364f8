"""Evaluation without training."""

import json
import math

import pytest

from focalnet_jax.data.digits_source import DigitsSource
from focalnet_jax.distributed import startup
from focalnet_jax.distributed.mesh import make_mesh
from focalnet_jax.programs.config_files import load_config
from focalnet_jax.tasks.classification.accuracy import Accuracy
from focalnet_jax.training.evaluate_checkpoint import evaluate_checkpoint
from focalnet_jax.training.evaluation import evaluate
from tests.commands import SMALL


def test_an_evaluation_that_is_stopped_before_its_first_batch_counts_no_example():
    mesh, accuracy = make_mesh({"data": 1, "fsdp": 1, "tensor": 1}), Accuracy(DigitsSource("val"))
    assert evaluate(lambda *_: {}, None, iter(()), mesh, accuracy) == {"examples": 0}


def test_what_an_evaluation_added_is_forgotten_by_the_next_one():
    accuracy = Accuracy(DigitsSource("val"))
    for _ in range(2):
        accuracy.reset()
        accuracy.add({"top1": 1.0, "loss": 4.0, "examples": 2.0})
        assert accuracy.result() == {"top1": 50.0, "loss": 2.0, "examples": 2}
    accuracy.reset()
    accuracy.add({"top1": 0.0, "loss": 0.0, "examples": 0.0})
    assert math.isnan(accuracy.result()["loss"])


@pytest.mark.parametrize("first", [True, False])
def test_any_figure_that_is_nan_is_told_by_one_process_and_none_is_needed(first, finished, monkeypatch, capsys):
    monkeypatch.setattr(startup, "is_first", lambda: first)
    monkeypatch.setattr(Accuracy, "result", lambda _: {"miou": math.nan, "aacc": 3.0, "examples": 450})
    evaluate_checkpoint(load_config("configs/quickstart.py", SMALL[1:]), str(finished[0]))
    printed = capsys.readouterr()
    told = "warning: miou is nan: the weights or the outputs are NaN or infinite\n"
    assert printed.err == (told if first else "")
    assert json.loads(printed.out.splitlines()[-1])["miou"] is None
