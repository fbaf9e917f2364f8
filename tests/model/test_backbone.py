"""The backbone's maps equal the model's, have gradients, and follow the options for dense tasks."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from focalnet_jax.errors import UserError
from focalnet_jax.model import Backbone, FocalNet, variant_config
from focalnet_jax.model.precision import get_precision
from focalnet_jax.ops import native
from focalnet_jax.ops.dropout import example_keys
from focalnet_jax.parameters import named_leaves
from tests.model.test_focalnet import assert_close_in_norm, images
from tests.models import with_drawn_parameters

SMALL = dict(embed_dim=8, depths=(1, 2), num_classes=3)
OVERLAPPED = dict(use_conv_embed=True, use_layerscale=True)


def noisy(model, seed=0):
    """Returns the model with random parameters, so that leaving one out changes the result."""
    graph, params = nnx.split(model)
    leaves, tree = jax.tree.flatten(params)
    rng = np.random.default_rng(seed)  # NumPy compiles no program per shape
    drawn = [jnp.asarray(leaf + rng.normal(0, 0.2, leaf.shape).astype(np.float32)) for leaf in map(np.asarray, leaves)]
    return nnx.merge(graph, jax.tree.unflatten(tree, drawn))


def make(kind=Backbone, *, dtype="float32", platform=None, dense=None, **options):
    config = variant_config("focalnet_tiny_srf", **(SMALL | options))
    precision = get_precision(dtype)
    build = partial(kind, config, precision=precision, platform=platform, **(dense or {}))
    return with_drawn_parameters(lambda: build(rngs=nnx.Rngs(0)))


def parameters(model):
    return named_leaves(nnx.to_pure_dict(nnx.state(model, nnx.Param)))


def test_parameters_keep_the_names_that_checkpoints_and_tables_have():
    layers = {
        "patch_embed/proj": ("kernel", "bias"),
        "patch_embed/norm": ("scale", "bias"),
        **{
            f"stages/{stage}/blocks/{name}": ("kernel", "bias")
            for stage in range(2)
            for name in (
                *(f"modulation/{part}" for part in ("query", "context", "gates", "modulator", "proj")),
                *("mlp/fc1", "mlp/fc2"),
            )
        },
        **{f"stages/{stage}/blocks/modulation/focal_kernels/{k}": ("kernel",) for stage in range(2) for k in range(2)},
        **{f"stages/{stage}/blocks/norm{n}": ("scale", "bias") for stage in range(2) for n in (1, 2)},
        **{f"stages/{stage}/blocks": ("gamma1", "gamma2") for stage in range(2)},
        "stages/0/downsample/proj": ("kernel", "bias"),
        "stages/0/downsample/norm": ("scale", "bias"),
    }
    backbone = {f"{layer}/{leaf}" for layer, leaves in layers.items() for leaf in leaves}
    assert parameters(make(use_layerscale=True)).keys() == backbone
    classifier = {"norm/scale", "norm/bias", "head/kernel", "head/bias"}
    assert parameters(make(FocalNet, use_layerscale=True)).keys() == backbone | classifier
    norms = {f"output_norms/{stage}/{leaf}" for stage in range(2) for leaf in ("scale", "bias")}
    assert parameters(make(use_layerscale=True, dense={"output_norms": True})).keys() == backbone | norms


def test_a_seed_gives_a_backbone_the_same_parameters_with_and_without_what_follows_it():
    def initialised(kind=Backbone, **dense):
        config, precision = variant_config("focalnet_tiny_srf", **SMALL), get_precision("float32")
        return nnx.jit(lambda rngs: kind(config, precision=precision, rngs=rngs, **dense))(nnx.Rngs(0))

    alone = parameters(initialised())
    for other in (initialised(FocalNet), initialised(output_norms=True), initialised(pad=True)):
        for name, leaf in alone.items():
            np.testing.assert_array_equal(parameters(other)[name], leaf, err_msg=name)


@pytest.mark.parametrize("options", [{}, OVERLAPPED, dict(patch_size=16, depths=(2,))])
@pytest.mark.parametrize("dense", [{}, {"pad": True}, {"outputs": (0,), "output_norms": True}])
def test_channels_and_strides_are_those_of_the_maps(options, dense):
    model = make(**options, dense=dense)
    height, width = 2 * max(model.strides) * 3, 2 * max(model.strides)
    maps = nnx.eval_shape(lambda model, x: model.features(x), model, jnp.zeros((2, height, width, 3)))
    assert [each.shape for each in maps] == [
        (2, height // stride, width // stride, channels)
        for channels, stride in zip(model.channels, model.strides, strict=True)
    ]


def test_features_with_keys_are_those_the_call_classifies():
    model = noisy(make(FocalNet, drop_path_rate=0.5, drop_rate=0.2))
    x, key = images((3, 16, 16, 3)), jax.random.key(1)
    random = model.features(x, key)
    np.testing.assert_array_equal(model.classify(random[-1]), model(x, key))
    assert not np.array_equal(random[-1], model.features(x)[-1])
    for one, each in zip(random, model.features(x, example_keys(key, 3)), strict=True):
        np.testing.assert_array_equal(one, each)


def gradients(model, x, keys):
    """Returns the gradients of a function that depends on all maps."""
    graph, params = nnx.split(model)

    def loss(params):
        maps = nnx.merge(graph, params).features(x, keys)
        return sum(jnp.sum(jnp.sin(each)) for each in maps)

    return jax.jit(jax.grad(loss))(nnx.to_pure_dict(params))


def random_gradients(**options):
    random = dict(drop_path_rate=0.5, drop_rate=0.2, aggregation="xla")
    x, keys = images((3, 16, 16, 3)), example_keys(jax.random.key(7), 3)
    return gradients(noisy(make(**random, **options, dense={"output_norms": True})), x, keys)


@pytest.fixture(scope="module")
def plain():
    return random_gradients(scan_blocks=False, remat="none")


@pytest.mark.parametrize(
    "options", [dict(scan_blocks=True), dict(remat="full"), dict(remat="dots", scan_blocks=True)], ids=str
)
def test_gradients_through_features_are_the_same_scanned_and_rematerialized(options, plain):
    other = random_gradients(**options)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(plain))
    assert_close_in_norm(other, plain, 5e-6)  # different fusions round differently, see test_focalnet.py


@pytest.mark.skipif(native.register() is None, reason="there is no C++ compiler")
def test_kernels_compute_features_and_their_gradients():
    x, keys = images((3, 16, 16, 3)), jax.random.key(7)
    ours, theirs = (noisy(make(drop_path_rate=0.5, aggregation=name)) for name in ("native", "xla"))
    program = str(jax.make_jaxpr(lambda x: ours.features(x, keys))(x))
    assert f"{native.register()}_focal_levels" in program
    assert_close_in_norm(gradients(ours, x, keys), gradients(theirs, x, keys), 1e-5)


def test_output_norms_normalize_the_returned_map_and_not_the_next_stages_input():
    plain, normed = make(), make(dense={"output_norms": True})
    nnx.update(normed, nnx.state(plain))
    for stage in range(2):
        norm = normed.output_norms[str(stage)]
        norm.scale[...] = norm.scale[...] + jnp.arange(norm.scale.size)
        norm.bias[...] = norm.bias[...] - 3
    x = images()
    for stage, (mine, raw) in enumerate(zip(normed.features(x), plain.features(x), strict=True)):
        raw, scale = np.float64(raw), 1 + np.arange(raw.shape[-1])
        expected = (raw - raw.mean(-1, keepdims=True)) / np.sqrt(raw.var(-1, keepdims=True) + 1e-5) * scale - 3
        np.testing.assert_allclose(mine, expected, atol=1e-5 * np.abs(expected).max(), err_msg=str(stage))


def test_outputs_are_the_maps_of_those_stages():
    whole, some = make(depths=(1, 1, 1)), make(depths=(1, 1, 1), dense={"outputs": [0, 2]})
    maps = whole.features(images())
    assert (some.channels, some.strides) == ((8, 32), (4, 16))
    for mine, other in zip(some.features(images()), (maps[0], maps[2]), strict=True):
        np.testing.assert_array_equal(mine, other)


@pytest.mark.parametrize("options", [{}, OVERLAPPED], ids=["patches", "overlapped"])
def test_odd_sizes_are_padded_before_each_embedding(options):
    padding, floored = make(**options, depths=(1,) * 4, dense={"pad": True}), make(**options, depths=(1,) * 4)
    shapes = nnx.eval_shape(lambda model, x: model.features(x), padding, jnp.zeros((1, 97, 130, 3)))
    assert [each.shape[1:3] for each in shapes] == [(25, 33), (13, 17), (7, 9), (4, 5)]
    x = images((1, 13, 18, 3))
    first, second, *_ = padding.features(x)
    given = jnp.pad(x, ((0, 0), (0, 3), (0, 2), (0, 0)))
    stem = floored.patch_embed(given)
    np.testing.assert_allclose(padding.patch_embed(x), stem, rtol=1e-5, atol=1e-6)
    assert first.shape[1:3] == (4, 5)
    down = floored.stages[0].downsample(jnp.pad(first, ((0, 0), (0, 0), (0, 1), (0, 0))))
    rates = jnp.zeros(1)
    np.testing.assert_allclose(second, floored.stages[1](down, rates)[0], rtol=1e-5, atol=1e-6)


def test_the_stems_of_both_originals_differ_by_a_shift():
    """Kernel 7 and stride 4, with padding 2 or 3: with padding 3 the windows start one pixel earlier."""
    two, three = (make(**OVERLAPPED, dense={"stem_padding": padding}) for padding in (2, 3))
    x = images((1, 16, 16, 3))
    shifted = jnp.pad(x, ((0, 0), (1, 0), (1, 0), (0, 0)))[:, :-1, :-1]
    ours, theirs = three.patch_embed(x), two.patch_embed(shifted)
    assert ours.shape == theirs.shape == (1, 4, 4, 8)
    # The last row and column of the shifted image are lost.
    np.testing.assert_allclose(ours[:, :3, :3], theirs[:, :3, :3], rtol=1e-4, atol=1e-5)
    assert not np.allclose(ours, two.patch_embed(x))


def test_a_padding_backbone_takes_the_smallest_image():
    maps = make(depths=(1,) * 4, dense={"pad": True}).features(images((1, 1, 1, 3)))
    assert [each.shape[1:3] for each in maps] == [(1, 1)] * 4
    assert all(np.isfinite(each).all() for each in maps)


@pytest.mark.parametrize(
    ("options", "dense", "expected"),
    [
        ({}, {"outputs": ()}, "expected ascending stages, each from 0 to 1"),
        ({}, {"outputs": (0, 2)}, "expected ascending stages, each from 0 to 1"),
        ({}, {"outputs": (1, 0)}, "expected ascending stages"),
        ({}, {"outputs": (0, 0)}, "expected ascending stages"),
        ({}, {"outputs": (0, 1.0)}, "expected ascending stages"),
        ({}, {"stem_padding": 3}, "stem_padding is 3 with use_conv_embed=False"),
        (OVERLAPPED, {"stem_padding": 1}, "expected 2, or 3 with use_conv_embed=True"),
    ],
)
def test_options_that_do_not_fit_the_model_are_refused(options, dense, expected):
    with pytest.raises(UserError, match=expected):
        make(**options, dense=dense)


WINDOWS = {"3": (2, 3), "9": (2, 9), "9 to 13": (3, 9), "13": (1, 13)}


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize(("windows", "dtype"), [("3", "float32"), *((windows, "bfloat16") for windows in WINDOWS)])
def test_windows_of_the_dense_tasks_are_lowered_for_every_accelerator(windows, platform, dtype):
    levels, window = WINDOWS[windows]
    options = dict(embed_dim=32, depths=(1,), focal_levels=levels, focal_windows=window)
    graph, params = nnx.split(nnx.eval_shape(lambda: make(**options, dtype=dtype, platform=platform)))

    def loss(params, x):
        return sum(jnp.sum(each**2) for each in nnx.merge(graph, params).features(x, jax.random.key(0)))

    traced = jax.jit(jax.grad(loss)).trace(params, jax.ShapeDtypeStruct((8, 30, 34, 3), jnp.float32))
    lowered = traced.lower(lowering_platforms=(platform,)).as_text()
    # The kernels for GPUs do not support kernels of 11 and 13.
    assert ("focal_level" in lowered) == (windows == "3" or platform == "tpu")


def test_windows_of_the_dense_tasks_compute_the_same_on_a_cpu():
    x = images((1, 24, 20, 3))
    options = dict(depths=(1,), focal_levels=2, focal_windows=11)
    names = ["xla", "shifted", "auto"]
    first, *others = (gradients(noisy(make(**options, aggregation=name)), x, None) for name in names)
    for other in others:
        assert_close_in_norm(other, first, 1e-5)  # sums of 169 products in different orders
