"""Evaluation by itself."""

from focalnet_jax.distributed.mesh import make_mesh
from focalnet_jax.training.evaluation import evaluate


def test_an_evaluation_that_is_stopped_before_its_first_batch_counts_no_example():
    assert evaluate(lambda *_: {}, {}, iter(()), make_mesh({"data": 1, "fsdp": 1, "tensor": 1})) == {"examples": 0}
