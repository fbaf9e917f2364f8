"""Evaluation by itself."""

import math

from focalnet_jax.data.digits_source import DigitsSource
from focalnet_jax.distributed.mesh import make_mesh
from focalnet_jax.tasks.classification.accuracy import Accuracy
from focalnet_jax.training.evaluation import evaluate


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
