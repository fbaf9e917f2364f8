"""A step computes the same on any number of devices and learns; every example is evaluated once."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from focalnet_jax.data.digits_source import DigitsSource
from focalnet_jax.data.loader import ReadOptions, eval_batches
from focalnet_jax.data.normalization import normalize
from focalnet_jax.data.transforms import eval_transform
from focalnet_jax.distributed.mesh import check_batch_size, make_mesh, put_batch, replicated
from focalnet_jax.errors import UserError
from focalnet_jax.programs.config_files import load_config
from focalnet_jax.tasks.classification.accuracy import Accuracy
from focalnet_jax.tasks.classification.host import ClassificationHost
from focalnet_jax.training.evaluation import evaluate
from focalnet_jax.training.state import Variables, init_state
from focalnet_jax.training.step import make_eval_step, make_train_step
from tests.specs import open_spec, train_batches_of

SMALL = [
    "--config.model.embed_dim=16",
    "--config.model.depths=(1,1)",
    "--config.data.image_size=16",
    "--config.data.eval_resize=16",
    "--config.model.drop_path_rate=0.2",
]


def spec_on(devices, config):
    mesh = make_mesh({"data": devices, "fsdp": 1, "tensor": 1})
    spec, init = open_spec(config, mesh, warmup_steps=10, total_steps=200)
    return spec, init_state(spec, init)


def eval_step(spec, source=None, competing=None):
    return make_eval_step(spec.graph, spec.mesh, Accuracy(source, competing))


def losses(config, devices, steps):
    spec, state = spec_on(devices, config)
    step = make_train_step(spec)
    measured = []
    for batch in train_batches_of(config, spec, steps):
        state, metrics = step(state, put_batch(batch, spec.mesh))
        measured.append(float(metrics["train/loss"]))
    assert state.params["head"]["kernel"].sharding.is_fully_replicated
    return np.array(measured), state


@pytest.fixture(scope="module")
def config():
    return load_config("configs/quickstart.py", SMALL)


@pytest.fixture(scope="module")
def on_one_device(config):
    return losses(config, 1, 150)


def test_loss_falls_on_real_digits(on_one_device):
    measured, _ = on_one_device
    assert measured[:5].mean() > 2.0  # ten classes: log(10) = 2.3
    assert measured[-10:].mean() < 1.6


def test_eight_devices_follow_one_with_the_same_global_batch(config, on_one_device):
    measured, _ = losses(config, 8, 20)
    # Sums over the batch have a different order: an error of 6e-8 per rounding, which grows slightly in 20 AdamW steps.
    np.testing.assert_allclose(measured, on_one_device[0][:20], rtol=1e-5)
    assert not np.array_equal(measured, on_one_device[0][1:21])


DROPPING = [*SMALL, "--config.model.depths=(1,)", "--config.model.drop_rate=0.1"]


@pytest.fixture(scope="module")
def whole():
    return losses(load_config("configs/quickstart.py", DROPPING), 1, 20)[0]


@pytest.mark.parametrize("devices", [1, 8])
def test_four_micro_batches_are_one_batch(devices, whole):
    parts, _ = losses(load_config("configs/quickstart.py", [*DROPPING, "--config.accumulate_steps=4"]), devices, 20)
    # Means of means round differently, with an error of 6e-8 per rounding that grows slightly in 20 AdamW steps.
    np.testing.assert_allclose(parts, whole, rtol=1e-5)


def test_gradients_reported_are_before_clipping_and_the_rate_is_the_schedules(config):
    spec, state = spec_on(1, config)
    params = jax.tree.map(jnp.copy, state.params)
    batch = next(train_batches_of(config, spec, 1))
    _, metrics = make_train_step(spec)(state, put_batch(batch, spec.mesh))
    assert metrics["train/learning_rate"] == np.float32(1e-6)
    assert metrics["train/grad_norm"] > 0
    key = jax.random.fold_in(jax.random.split(jax.random.key(config.seed))[1], 0)
    targets = jax.nn.one_hot(batch["label"], 10) * 0.9 + 0.01
    logits = jax.jit(lambda p, x: nnx.merge(spec.graph, p)(normalize(x), key))(params, batch["image"])
    expected = -(targets * jax.nn.log_softmax(logits)).sum(-1).mean()
    np.testing.assert_allclose(metrics["train/loss"], expected, rtol=1e-5)


@pytest.mark.parametrize(("batch_size", "devices"), [(450, 1), (64, 8), (7, 1), (1000, 4)])
def test_evaluation_does_not_depend_on_batch_size_or_devices(config, on_one_device, batch_size, devices):
    spec, _ = spec_on(devices, config)
    params = jax.device_put(jax.device_get(on_one_device[1].params), replicated(spec.mesh))
    evaluation = Accuracy(source := DigitsSource("val"))
    host = ClassificationHost(None, eval_transform(16, 16))
    read = eval_batches(source, host, batch_size=batch_size, reading=ReadOptions(threads=0))
    step = make_eval_step(spec.graph, spec.mesh, evaluation)
    result = evaluate(step, Variables(params), read, spec.mesh, evaluation)

    images = np.stack([eval_transform(16, 16)(source[i][0]) for i in range(len(source))])
    labels = np.array([source[i][1] for i in range(len(source))])
    logits = np.asarray(jax.jit(lambda p, x: nnx.merge(spec.graph, p)(normalize(x)))(params, images))
    top5 = np.argsort(-logits, axis=1)[:, :5]
    assert result["examples"] == 450
    assert result["top1"] == pytest.approx(100 * (top5[:, 0] == labels).mean(), abs=1e-9)
    assert result["top5"] == pytest.approx(100 * (top5 == labels[:, None]).any(1).mean(), abs=1e-9)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    assert result["loss"] == pytest.approx(float(loss), rel=1e-5)


def test_normalisation_is_imagenets():
    pixels = np.array([[[[0, 128, 255]]]], np.uint8)
    expected = (pixels / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(normalize(jnp.asarray(pixels)), expected, rtol=1e-6)


def test_a_batch_divides_over_devices_and_micro_batches():
    mesh = make_mesh({"data": 8, "fsdp": 1, "tensor": 1})
    assert check_batch_size("batch_size", 64, mesh, 4) == 64
    with pytest.raises(UserError, match=r"8 devices x 4 accumulate_steps; the nearest valid sizes: 32 or 64$"):
        check_batch_size("batch_size", 40, mesh, 4)


def test_any_of_several_labels_is_right_and_an_example_without_any_is_not_counted(config):
    spec, state = spec_on(1, config)
    params = state.result
    images = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), np.uint8)
    evaluate, classes = eval_step(spec), config.model.num_classes
    one_by_one = [[evaluate(params, batch(images[[i]], [label])) for label in range(classes)] for i in range(4)]
    singles = np.array([[float(sums["loss"]) for sums in row] for row in one_by_one])
    best = singles.argmin(axis=1)
    other = (best + 1) % classes
    labels = np.stack([[other[0], best[0], -1], [best[1], -1, -1], [other[2], -1, -1], [-1, -1, -1]]).astype(np.int32)
    sums = evaluate(params, batch(images, labels))
    assert (sums["examples"], sums["top1"]) == (3, 2)
    expected = (singles[0, other[0]] + singles[0, best[0]]) / 2 + singles[1, best[1]] + singles[2, other[2]]
    assert float(sums["loss"]) == pytest.approx(float(expected), rel=1e-5)
    # If only two classes compete, the other classes are never predicted.
    few = eval_step(spec, competing=2)(params, batch(images, singles[:, :2].argmin(axis=1)))
    assert few["top1"] == 4


def batch(images, labels):
    return {"image": images, "label": np.asarray(labels, np.int32), "mask": np.ones(len(images), np.float32)}
