"""The schedule is timm's, the decay spares what it should, durations convert once."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import focalnet_jax
from focalnet_jax.config import default_config
from focalnet_jax.errors import UserError
from focalnet_jax.model import variant_config
from focalnet_jax.paths import named_leaves, selected
from focalnet_jax.training.optimizer import DECAYED, cosine_schedule, make_optimizer
from focalnet_jax.training.setup import make_plan


def timm_cosine(t, *, peak, minimum, warmup_start, warmup_steps, total_steps):
    """Timm's CosineLRScheduler, one cycle, t_in_epochs=False, warmup_prefix=False."""
    if t < warmup_steps:
        return warmup_start + t * (peak - warmup_start) / warmup_steps
    if t >= total_steps:
        return minimum
    return minimum + 0.5 * (peak - minimum) * (1 + math.cos(math.pi * t / total_steps))


@pytest.mark.parametrize(("warmup", "total"), [(20, 300), (0, 10), (1, 2), (30, 7), (1251 * 20, 1251 * 300)])
def test_the_schedule_is_timms_at_every_step(warmup, total):
    settings = dict(peak=1e-3, minimum=1e-5, warmup_start=1e-6, warmup_steps=warmup, total_steps=total)
    schedule = jax.jit(jax.vmap(cosine_schedule(**settings)))
    steps = np.unique(np.linspace(0, total + 5, 500).astype(int))
    expected = [timm_cosine(t, **settings) for t in steps]
    np.testing.assert_allclose(schedule(jnp.asarray(steps)), expected, rtol=2e-6, atol=1e-10)  # float32 cosine


def test_the_jump_after_warmup_is_there():
    schedule = cosine_schedule(peak=1.0, minimum=0.0, warmup_start=0.0, warmup_steps=50, total_steps=100)
    assert schedule(49) == pytest.approx(0.98)
    assert schedule(50) == pytest.approx(0.5)


@pytest.mark.parametrize("name", ["focalnet_tiny_lrf", "focalnet_huge_fl4", "focalnet_base_iso"])
def test_decay_is_on_all_but_biases_and_one_dimensional_parameters(name):
    config = variant_config(name, embed_dim=8)
    model = nnx.eval_shape(lambda: focalnet_jax.create_model(name, embed_dim=8))
    params = nnx.to_pure_dict(nnx.state(model))
    decayed = named_leaves(selected(DECAYED)(params))
    for path, leaf in named_leaves(params).items():
        dimensions = len(leaf.shape) - ("/blocks/" in path)  # blocks are stacked along a leading axis
        assert decayed[path] == (dimensions > 1 and not path.endswith("bias")), path
    assert not all(decayed.values())
    assert any("gamma" in path for path in decayed) == config.use_layerscale


def test_a_pattern_that_matches_nothing_is_refused():
    with pytest.raises(UserError, match="matches no parameter"):
        selected("kernels$")({"a": {"kernel": 1}})


def test_an_update_is_adamw_on_the_clipped_gradient():
    config = default_config().optimizer
    params = {"kernel": jnp.array([[3.0, -4.0]]), "bias": jnp.array([1.0])}
    gradient = {"kernel": jnp.array([[30.0, 40.0]]), "bias": jnp.array([0.0])}  # norm 50, clipped to 5
    optimizer = make_optimizer(config, optax.constant_schedule(0.1))
    updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    # bias-corrected first step: the moments are the gradient and its square
    clipped = np.array([[3.0, 4.0]])
    adam = clipped / (np.abs(clipped) + 1e-8)
    # optax corrects the bias by 1 - b2 in float32, where 1 - 0.999 keeps five digits
    np.testing.assert_allclose(updates["kernel"], -0.1 * (adam + 0.05 * params["kernel"]), rtol=2e-5)
    np.testing.assert_allclose(updates["bias"], [0.0], atol=1e-12)


def plan_of(**values):
    config = default_config()
    config.batch_size = 10
    config.update_from_flattened_dict(values)
    return make_plan(config, 105)


def test_durations_are_steps_or_epochs():
    plan = plan_of(total_epochs=3.0, **{"schedule.warmup_steps": 7, "eval_every_epochs": 0.5})
    assert (plan.steps_per_epoch, plan.total, plan.warmup) == (10, 30, 7)
    assert (plan.evaluate_every, plan.save_every) == (5, None)
    assert plan_of(total_steps=4).evaluate_every == 4


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({}, "neither total_epochs nor total_steps"),
        ({"total_epochs": 1.0, "total_steps": 3}, "both set"),
        ({"total_steps": 0}, "total_steps=0: expected 1 to"),
        ({"total_epochs": -2.0}, "total_epochs=-2.0 .10 steps an epoch.: expected 1 to"),
        ({"total_steps": 3, "eval_every_epochs": 0.01}, "eval_every_epochs=0.01 .*: expected 1 to"),
    ],
)
def test_durations_that_make_no_sense_are_refused(values, told):
    with pytest.raises(UserError, match=told):
        plan_of(**values)
