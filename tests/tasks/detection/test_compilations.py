"""After the first batches of each canvas, neither training nor an evaluation compiles anything."""

from collections import Counter

import jax
import pytest

from focalnet_jax.data.loader import ReadOptions, eval_batches
from focalnet_jax.distributed.mesh import make_mesh, put_batch
from focalnet_jax.programs.config_files import load_config
from focalnet_jax.training.evaluation import evaluate
from focalnet_jax.training.state import init_state
from focalnet_jax.training.step import make_eval_step, make_train_step
from tests.specs import open_spec, train_batches_of

COMPILED = "/jax/core/compile/backend_compile_duration"  # also recorded for programs of the persistent cache
CANVASES = {(96, 128), (128, 96)}
STEPS = 30


@pytest.fixture
def compiled():
    """A list with one item per compilation."""
    found = []

    def listen(event, duration, **_):
        if event == COMPILED:
            found.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield found
    jax.monitoring.unregister_event_duration_listener(listen)


@pytest.fixture
def run():
    """The config and TrainSpec of a small Mask R-CNN on one device, and the state before the first step."""
    config = load_config("configs/mask_rcnn_coco.py:smoke", ["--config.batch_size=2"])
    spec, init = open_spec(config, make_mesh({"data": 1, "fsdp": 1, "tensor": 1}, jax.devices()[:1]), total_steps=STEPS)
    return config, spec, init_state(spec, init)


def test_train_steps_compile_one_program_per_canvas(compiled, run):
    config, spec, state = run
    step, seen, late = make_train_step(spec), Counter(), []
    for batch in train_batches_of(config, spec, STEPS):
        first = seen[batch["image"].shape[1:3]] == 0
        before = len(compiled)
        state, metrics = step(state, put_batch(batch, spec.mesh))
        jax.block_until_ready(metrics)
        (late if not first else []).extend(compiled[before:])
        assert len(compiled) > before or not first  # the listener notices compilations
        seen[batch["image"].shape[1:3]] += 1
    assert seen.keys() == CANVASES
    assert min(seen.values()) > 5
    assert not late


def test_a_second_evaluation_compiles_nothing(compiled, run):
    _, spec, state = run
    evaluation, host = spec.task.evaluations()["eval"], spec.task.host
    step, shapes = make_eval_step(spec.graph, spec.mesh, evaluation), set()

    def batches():
        groups = host.groups(evaluation.source)
        for batch in eval_batches(
            evaluation.source, host, batch_size=16, groups=groups, reading=ReadOptions(threads=2)
        ):
            shapes.add(batch["image"].shape[1:3])
            yield batch

    first = evaluate(step, state.result, batches(), spec.mesh, evaluation)
    before = len(compiled)
    assert before
    assert evaluate(step, state.result, batches(), spec.mesh, evaluation) == first
    assert shapes == CANVASES
    assert compiled[before:] == []
