"""The schedule equals timm's, weight decay excludes the right parameters, and durations are converted once."""

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
from focalnet_jax.parameters import named_leaves, selected
from focalnet_jax.training.optimizer import (
    DECAYED,
    check_patterns,
    cosine_schedule,
    learning_rate_scales,
    make_optimizer,
)
from focalnet_jax.training.plan import make_plan
from tests.models import drawn_model


def timm_cosine(t, *, peak, minimum, warmup_start, warmup_steps, total_steps):
    """Returns the rates of timm's CosineLRScheduler: one cycle, t_in_epochs=False, warmup_prefix=False."""
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
    gradient = {"kernel": jnp.array([[30.0, 40.0]]), "bias": jnp.array([0.0])}  # norm 50 is clipped to 5
    optimizer = make_optimizer(config, optax.constant_schedule(0.1))
    updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    # in the first step, the bias-corrected moments are the gradient and its square
    clipped = np.array([[3.0, 4.0]])
    adam = clipped / (np.abs(clipped) + 1e-8)
    # optax corrects the bias by 1 - b2 in float32, where 1 - 0.999 has five exact digits
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
    ("values", "message"),
    [
        ({}, "total_epochs and total_steps are both unset"),
        ({"total_epochs": 1.0, "total_steps": 3}, "both set"),
        ({"total_steps": 0}, "total_steps=0: expected 1 to"),
        ({"total_epochs": -2.0}, "total_epochs=-2.0 .10 steps per epoch.: expected 1 to"),
        ({"total_steps": 3, "eval_every_epochs": 0.01}, "eval_every_epochs=0.01 .*: expected 1 to"),
    ],
)
def test_durations_that_make_no_sense_are_refused(values, message):
    with pytest.raises(UserError, match=message):
        plan_of(**values)


SMALL = dict(embed_dim=8, depths=(2, 3), focal_levels=(1, 1), focal_windows=(3, 3))


@pytest.fixture(scope="module")
def params():
    model = drawn_model("focalnet_tiny_srf", num_classes=5, **SMALL)
    return jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(model, nnx.Param)))


def optimizer_config(**changed):
    config = default_config().optimizer
    config.update(changed)
    return config


def updated(params, gradients=None, steps=2, **changed):
    """Returns the parameters by name after steps with rate 0.1, and the optimizer state."""
    optimizer = make_optimizer(optimizer_config(**changed), lambda step: 0.1)
    gradients = jax.tree.map(np.ones_like, params) if gradients is None else gradients
    params, state = stepped(optimizer, params, gradients, steps)
    return named_leaves(params), state


def stepped(optimizer, params, gradients, steps):
    """Returns the parameters, added by NumPy, which compiles no program per shape, and the optimizer state."""
    state, update = jax.jit(optimizer.init)(params), jax.jit(optimizer.update)
    for _ in range(steps):
        updates, state = update(gradients, state, params)
        params = jax.tree.map(lambda param, step: param + np.asarray(step), params, updates)
    return params, state


def random_like(params, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), params)


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("adamw", lambda mask: optax.adamw(0.1, 0.8, 0.95, 1e-6, weight_decay=0.05, mask=mask)),
        ("lion", lambda mask: optax.lion(0.1, 0.8, 0.95, weight_decay=0.05, mask=mask)),
        ("sgd", lambda mask: optax.sgd(0.1, 0.8)),
    ],
)
def test_optimizers_by_name_are_optaxs(params, name, reference):
    gradients = random_like(params)
    decay = 0.0 if name == "sgd" else 0.05
    moments = dict(b1=0.8, b2=0.95, eps=1e-6)
    ours, _ = updated(params, gradients, name=name, clip_norm=0.0, weight_decay=decay, **moments)
    theirs, _ = stepped(reference(selected(DECAYED)), params, gradients, 2)
    for path, leaf in named_leaves(theirs).items():
        np.testing.assert_array_equal(ours[path], leaf, err_msg=path)


def test_lambs_ratio_is_each_blocks_own(params):
    gradients = random_like(params)
    ours, _ = updated(params, gradients, name="lamb", clip_norm=0.0, steps=1)
    blocks = {
        f"{path}/{i}": leaf[i]
        for path, leaf in named_leaves(params).items()
        if "/blocks/" in path
        for i in range(len(leaf))
    }
    slopes = {
        f"{path}/{i}": leaf[i]
        for path, leaf in named_leaves(gradients).items()
        if "/blocks/" in path
        for i in range(len(leaf))
    }
    optimizer = optax.lamb(0.1, 0.9, 0.999, 1e-8, weight_decay=0.05, mask={path: "kernel" in path for path in blocks})
    for path, leaf in stepped(optimizer, blocks, slopes, 1)[0].items():
        name, _, index = path.rpartition("/")
        np.testing.assert_allclose(ours[name][int(index)], leaf, rtol=2e-6, atol=1e-7, err_msg=path)  # float32 sums


def test_a_scale_of_0_freezes_and_keeps_no_state(params):
    rules = (("^patch_embed/", 0), ("^head/", 2.0))
    before = named_leaves(params)
    after, state = updated(params, learning_rate_scales=rules)
    plain, whole = updated(params, clip_norm=0.0)
    for path, leaf in after.items():
        assert np.array_equal(leaf, before[path]) == path.startswith("patch_embed/"), path
    assert not [path for path in named_leaves(state) if "patch_embed" in path]
    assert [path for path in named_leaves(whole) if "patch_embed" in path]
    scaled, _ = updated(params, clip_norm=0.0, learning_rate_scales=rules, steps=1)
    plain, _ = updated(params, clip_norm=0.0, steps=1)
    for path in ("head/kernel", "norm/bias"):
        factor = 2 if path.startswith("head/") else 1
        np.testing.assert_allclose(scaled[path] - before[path], factor * (plain[path] - before[path]), rtol=1e-5)


def test_frozen_parameters_do_not_count_in_the_clipped_norm(params):
    gradients = jax.tree.map(np.ones_like, params)
    gradients["patch_embed"] = jax.tree.map(lambda leaf: 1e6 * leaf, gradients["patch_embed"])
    rules = (("^patch_embed/", 0),)
    ours, _ = updated(params, gradients, name="sgd", steps=1, clip_norm=1e9, learning_rate_scales=rules)
    theirs, _ = updated(params, gradients, name="sgd", steps=1, clip_norm=1e3, learning_rate_scales=rules)
    np.testing.assert_array_equal(ours["head/kernel"], theirs["head/kernel"])


def test_a_pattern_says_what_decays(params):
    rules = (("^head/bias$", 1.0), ("^head/kernel$", 0.0))
    zeros = jax.tree.map(np.zeros_like, params)
    ones = jax.tree.map(np.ones_like, params)
    after, _ = updated(ones, zeros, steps=1, weight_decay=0.5, weight_decay_scales=rules)
    shrunk = {path for path, leaf in after.items() if np.all(leaf < 1)}
    assert "head/bias" in shrunk
    assert "head/kernel" not in shrunk
    assert "patch_embed/proj/kernel" in shrunk


def test_layers_decay_from_the_classifier_down(params):
    scales = named_leaves(learning_rate_scales(optimizer_config(layer_decay=0.5), params))
    assert scales["head/kernel"] == 1
    assert scales["norm/scale"] == 0.5  # like the last block
    np.testing.assert_array_equal(np.ravel(scales["stages/1/blocks/mlp/fc1/kernel"]), [0.125, 0.25, 0.5])
    assert scales["stages/0/downsample/proj/kernel"] == 0.125  # like the block after it
    np.testing.assert_array_equal(np.ravel(scales["stages/0/blocks/norm1/bias"]), [0.03125, 0.0625])
    assert scales["patch_embed/proj/bias"] == scales["patch_embed/norm/bias"] == 0.015625


def test_layers_decay_in_a_backbone_below_a_prefix(params):
    config = optimizer_config(layer_decay=0.5)
    below = {"backbone": {name: part for name, part in params.items() if name != "head"}, "neck": params["head"]}
    scales = named_leaves(learning_rate_scales(config, below, "backbone/"))
    assert scales["neck/kernel"] == 1
    assert scales["backbone/norm/scale"] == 0.5


@pytest.mark.parametrize("decay", [0.5, 1.0])
def test_a_prefix_that_no_parameter_has_is_refused(params, decay):
    message = "no parameter has the prefix 'backbone/', .*; the parameters are .*patch_embed/proj/kernel"
    with pytest.raises(UserError, match=message):
        check_patterns(optimizer_config(layer_decay=decay), params, "backbone/")


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ((("^patches/", 0.0),), "'\\^patches/' matches no parameter"),
        ((("kernel$", 0.5), ("^head/", 1.0)), "head/kernel is matched by both 'kernel\\$' and '\\^head/'"),
        ((("(", 0.5),), "not a regular expression"),
        ((("", 0.0),), "freezes every parameter"),
    ],
)
def test_patterns_that_do_not_fit_are_refused(params, rules, message):
    with pytest.raises(UserError, match=message):
        check_patterns(optimizer_config(learning_rate_scales=rules), params)
