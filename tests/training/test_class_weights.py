"""With class weights, the loss is the weighted mean over the global batch, however the batch is divided."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from focalnet_jax.distributed.mesh import make_mesh, put_batch
from focalnet_jax.errors import UserError
from focalnet_jax.programs.config_files import load_config
from focalnet_jax.programs.show import shown_batch
from focalnet_jax.tasks.classification.mixing import Mixing, mix
from focalnet_jax.tasks.classification.weights import class_weights, unweigh, weigh
from focalnet_jax.training.state import init_state
from focalnet_jax.training.step import make_train_step
from tests.commands import SMALL
from tests.specs import open_spec, open_task, train_batches_of

WEIGHTS = np.array([0.2, 3.0, 1.0, 0.0, 5.0])
RNG = np.random.default_rng(0)
LOG_P = np.array(jax.nn.log_softmax(RNG.normal(size=(8, 5))), np.float64)
LABELS = np.array([0, 0, 1, 2, 3, 4, 4, 0])


def loss_of(targets, smoothing=0.0):
    weighed = weigh(jnp.asarray(targets, jnp.float32), jnp.asarray(WEIGHTS, jnp.float32), smoothing)
    return float(optax.softmax_cross_entropy(jnp.asarray(LOG_P, jnp.float32), weighed).mean())


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_it_is_the_weighted_mean_that_torch_has_for_class_indices(smoothing):
    one_hot = np.eye(5)[LABELS]
    hard = -(WEIGHTS[LABELS] * LOG_P[range(8), LABELS]).sum() / WEIGHTS[LABELS].sum()
    smooth = -(WEIGHTS * LOG_P).sum() / WEIGHTS[LABELS].sum() / 5
    expected = (1 - smoothing) * hard + smoothing * smooth
    assert loss_of(one_hot * (1 - smoothing) + smoothing / 5, smoothing) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("mixing", [dict(mixup=0.8), dict(cutmix=1.0), dict(mixup=0.8, cutmix=1.0)])
def test_a_mixed_example_has_the_weighted_mean_of_its_classes_weights(mixing):
    images, key, one_hot = np.zeros((8, 8, 8, 3), np.float32), jax.random.key(3), np.eye(5, dtype=np.float32)[LABELS]
    targets_of = jax.jit(lambda targets: mix(images, targets, Mixing(**mixing, group=4), key)[1])
    hard, smooth = targets_of(one_hot), targets_of(one_hot * 0.9 + 0.02)
    expected = -(np.asarray(smooth) * WEIGHTS * LOG_P).sum() / (np.asarray(hard) @ WEIGHTS).sum()
    assert loss_of(smooth, 0.1) == pytest.approx(expected, rel=1e-5)


def test_equal_weights_are_none_and_only_their_ratios_count():
    targets = jnp.asarray(np.eye(5)[LABELS] * 0.9 + 0.02, jnp.float32)
    np.testing.assert_allclose(weigh(targets, jnp.ones(5), 0.1), targets, rtol=1e-6)
    once, thrice = (weigh(targets, factor * jnp.asarray(WEIGHTS, jnp.float32), 0.1) for factor in (1, 3))
    np.testing.assert_allclose(once, thrice, rtol=1e-5)


def test_a_batch_of_classes_without_weight_has_no_loss():
    assert float(jnp.abs(weigh(jnp.eye(5)[jnp.array([3, 3])], jnp.asarray(WEIGHTS, jnp.float32), 0.0)).max()) == 0


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [WEIGHTS, WEIGHTS + 0.5])
def test_the_weights_of_targets_can_be_undone(weights, smoothing):
    targets = np.eye(5)[LABELS] * (1 - smoothing) + smoothing / 5
    targets[0] = 0.7 * targets[0] + 0.3 * targets[2]
    weighed = weigh(jnp.asarray(targets, jnp.float32), jnp.asarray(weights, jnp.float32), smoothing)
    np.testing.assert_allclose(unweigh(np.asarray(weighed), weights, smoothing), targets * (weights > 0), atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_captions_of_a_shown_batch_are_the_classes_without_weights(smoothing):
    small = [*SMALL[1:], f"--config.augment.label_smoothing={smoothing}"]
    plain, _ = shown_batch(load_config("configs/quickstart.py", small), 0, 16)
    weights = "--config.class_weights=(9,1,1,1,0.1,1,1,1,1,1)"
    weighted, _ = shown_batch(load_config("configs/quickstart.py", [*small, weights]), 0, 16)
    assert [captions for _, captions in weighted] == [captions for _, captions in plain]
    without, _ = shown_batch(load_config("configs/quickstart.py", [*small, weights.replace("0.1", "0")]), 0, 16)
    expected = [[text for text in captions if not text.endswith(" 4")] for _, captions in plain]
    assert [captions for _, captions in without] == expected


def losses(devices, *overrides):
    config = load_config("configs/quickstart.py", [*SMALL[1:], "--config.model.depths=(1,)", *overrides])
    mesh = make_mesh({"data": devices, "fsdp": 1, "tensor": 1}, jax.devices()[:devices])
    spec, init = open_spec(config, mesh, total_steps=20)
    state, step, measured = init_state(spec, init), make_train_step(spec), []
    for batch in train_batches_of(config, spec, 6):
        state, metrics = step(state, put_batch(batch, mesh))
        measured.append(float(metrics["train/loss"]))
    return measured


def test_devices_and_micro_batches_change_nothing():
    tail = "--config.class_weights=(9,1,1,1,1,1,1,1,1,0.1)"  # so that parts of a batch have different weights
    mixed = [tail, "--config.augment.mixup=0.8", "--config.augment.mix_group=8"]
    whole = losses(1, *mixed)
    # Sums over the batch in a different order, 6e-8 per rounding, which grows slightly in six AdamW steps.
    np.testing.assert_allclose(losses(4, *mixed, "--config.accumulate_steps=4"), whole, rtol=1e-5)
    assert abs(whole[0] - losses(1, *mixed[1:])[0]) > 1e-4


def test_balanced_weights_are_of_the_training_images():
    config = load_config("configs/quickstart.py", ["--config.class_weights=balanced"])
    source = open_task(config).source
    counts = np.bincount(source.labels)
    np.testing.assert_allclose(class_weights(config, source), counts.sum() / (10 * counts))
    assert class_weights(load_config("configs/quickstart.py"), source) is None
    evenly = load_config("configs/quickstart.py", ["--config.class_weights=balanced", "--config.data.class_balance=1"])
    # 1347 examples are not a multiple of ten classes: some classes are drawn once more.
    np.testing.assert_allclose(class_weights(evenly, source), 1, atol=0.01)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("(1,2)", "class_weights has 2 numbers; expected one for each of the 10 classes"),
        ("ballanced", "expected balanced, or a number of at least 0 for each class"),
        ("(1,-1)", "expected balanced"),
        ("(0,0)", "expected balanced"),
        ("3", "expected balanced"),
    ],
)
def test_invalid_class_weights_are_refused(value, message):
    with pytest.raises(UserError, match="class_weights") as caught:
        class_weights(load_config("configs/quickstart.py", [f"--config.class_weights={value}"]), None)
    assert message in str(caught.value)
