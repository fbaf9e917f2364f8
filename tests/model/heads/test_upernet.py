"""UPerNet has the original's parameters, sizes of maps and randomness, in every variant and precision."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from focalnet_jax.errors import UserError
from focalnet_jax.model import variant_config
from focalnet_jax.model.heads.upernet import AuxiliaryHead, ConvBlock, UPerNet
from focalnet_jax.model.precision import get_precision
from focalnet_jax.ops.compute import EXACT
from focalnet_jax.ops.dropout import channel_dropout, example_keys
from focalnet_jax.parameters import named_leaves, with_leaves

SMALL = dict(embed_dim=8, depths=(1, 1, 1, 1))
HEADS = dict(channels=8, auxiliary_channels=6)
CLASSES = 5
LAYERS = ("conv/kernel", "bn/scale", "bn/bias", "bn/mean", "bn/var")  # of a convolution with BatchNorm
# https://github.com/microsoft/FocalNet, segmentation, window 9 and 150 classes; with the auxiliary head
PARAMETERS = {
    "tiny_srf": 60_822_512,
    "tiny_lrf": 61_573_244,
    "small_srf": 83_060_756,
    "small_lrf": 84_594_860,
    "base_srf": 123_681_012,
    "base_lrf": 125_726_476,
}


def make(name="focalnet_tiny_srf", *, dtype="float32", heads=None, **options):
    config = variant_config(name, **(SMALL | options))
    return UPerNet(config, CLASSES, precision=get_precision(dtype), rngs=nnx.Rngs(0), **(HEADS | (heads or {})))


def shapes_of(model, height, width, *, batch=2, **options):
    images = jax.ShapeDtypeStruct((batch, height, width, 3), jnp.float32)
    found = nnx.eval_shape(lambda model, x: model(x, **options), model, images)
    return [None if each is None else each.shape for each in (found if isinstance(found, tuple) else (found,))]


def photos(batch=3, height=21, width=34):
    return np.random.default_rng(0).standard_normal((batch, height, width, 3), np.float32)


@pytest.fixture(scope="module")
def small():
    return nnx.eval_shape(make)


def filled(model):
    """Returns the graph and the state of an abstract model with random kernels. NumPy compiles no program per shape."""
    graph, state = nnx.split(model)
    draw = np.random.default_rng(0)

    def value(name, leaf):
        if name.endswith("kernel"):
            return np.float32(draw.normal(0, 1 / np.sqrt(np.prod(leaf.shape[-3:-1])), leaf.shape))
        return np.full(leaf.shape, name.endswith(("scale", "var", "gamma1", "gamma2")), np.float32)

    pure = nnx.to_pure_dict(state)
    leaves = {name: value(name, leaf) for name, leaf in named_leaves(pure).items()}
    nnx.replace_by_pure_dict(state, with_leaves(pure, leaves))
    return graph, state


@pytest.fixture(scope="module")
def call():
    """Returns a jitted call of a model of two stages, in evaluation, or in training with much randomness."""
    options = dict(heads={"dropout": 0.5}, drop_path_rate=0.5, focal_levels=1, depths=(1, 1))
    models = {dtype: filled(nnx.eval_shape(partial(make, dtype=dtype, **options))) for dtype in ("float32", "bfloat16")}

    @partial(jax.jit, static_argnums=3)
    def run(state, images, keys, dtype):
        model = nnx.merge(models[dtype][0], state)
        out = model(images, keys, train=keys is not None)
        return out, named_leaves(nnx.to_pure_dict(nnx.state(model, nnx.BatchStat)))

    return lambda images, keys=None, dtype="float32": run(models[dtype][1], images, keys, dtype)


KEYS = example_keys(jax.random.key(0), 3)


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_as_many_as_the_originals(name):
    config = variant_config(f"focalnet_{name}", focal_windows=9)
    model = nnx.eval_shape(lambda: UPerNet(config, 150, precision=get_precision("float32"), rngs=nnx.Rngs(0)))
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param))) == PARAMETERS[name]


def test_heads_have_mmsegmentations_names(small):
    names = named_leaves(nnx.to_pure_dict(nnx.state(small)))
    blocks = ["decode_head/bottleneck", "decode_head/fpn_bottleneck", "auxiliary_head/convs/0"]
    blocks += [f"decode_head/psp_modules/{index}" for index in range(4)]
    blocks += [f"decode_head/{part}/{index}" for part in ("lateral_convs", "fpn_convs") for index in range(3)]
    layers = {f"{block}/{leaf}" for block in blocks for leaf in LAYERS}
    classifiers = {
        f"{head}/conv_seg/{leaf}" for head in ("decode_head", "auxiliary_head") for leaf in ("kernel", "bias")
    }
    assert {name for name in names if not name.startswith("backbone/")} == layers | classifiers


@pytest.mark.parametrize("size", [(97, 130), (33, 4), (1, 1)], ids=str)
def test_logits_have_a_quarter_of_the_images_size_rounded_up(size, small):
    height, width = size
    logits, auxiliary = (2, -(-height // 4), -(-width // 4), CLASSES), (2, -(-height // 16), -(-width // 16), CLASSES)
    assert shapes_of(small, height, width, train=True) == [logits, auxiliary]


def test_only_training_has_auxiliary_logits_and_changes_the_statistics(call):
    evaluated, kept = call(photos())
    (logits, auxiliary), changed = call(photos(), KEYS)
    assert evaluated.shape == logits.shape == auxiliary.shape == (3, 6, 9, 5)
    assert not np.allclose(evaluated, logits, atol=1e-3)
    for name, leaf in kept.items():
        np.testing.assert_array_equal(leaf, 0 if name.endswith("mean") else 1, err_msg=name)
        assert np.all(leaf != changed[name]), name
    without = nnx.eval_shape(lambda: make(heads={"auxiliary": False}))
    assert without.auxiliary_head is None
    assert shapes_of(without, 32, 32, train=True) == [(2, 8, 8, CLASSES), None]


def test_dropout_drops_whole_channels_of_single_examples():
    keys = example_keys(jax.random.key(0), 4)
    kept = np.asarray(jax.jit(lambda keys: channel_dropout(jnp.ones((4, 3, 2, 50)), 0.25, keys))(keys))
    assert set(np.unique(kept)) == {0.0, np.float32(1 / 0.75)}
    channels = kept[:, 0, 0]
    np.testing.assert_array_equal(kept, np.broadcast_to(channels[:, None, None], kept.shape))
    assert 0.15 < np.mean(channels == 0) < 0.35  # 200 draws: 4 standard deviations are 0.12
    assert len(np.unique(channels, axis=0)) == 4
    np.testing.assert_array_equal(channel_dropout(np.ones((1, 1, 1, 5)), 0.25, None), 1)


def test_an_examples_draws_depend_on_its_own_key(call):
    (logits, _), _ = call(photos(), KEYS)
    (reordered, _), _ = call(photos()[::-1], KEYS[::-1])
    # Sums over the batch, in another order; BatchNorm of 3 values per channel amplifies their errors.
    np.testing.assert_allclose(reordered[::-1], logits, rtol=1e-4, atol=1e-4)
    (other, _), _ = call(photos(), KEYS[::-1])
    assert not np.allclose(other[0], logits[0], atol=1e-2)


def test_bfloat16_has_float32_logits_and_statistics(call):
    exact, _ = call(photos(), KEYS)
    rounded, statistics = call(photos(), KEYS, "bfloat16")
    for mine, other in zip(rounded, exact, strict=True):
        assert mine.dtype == jnp.float32
        # bfloat16 has 8 significant bits; BatchNorm of 3 values per channel amplifies their errors
        assert 0 < np.linalg.norm(mine - other) < 0.1 * np.linalg.norm(other)
    assert {leaf.dtype for leaf in statistics.values()} == {jnp.dtype(jnp.float32)}


def test_a_convolution_pads_with_zeros_on_all_sides():
    block = nnx.jit(lambda: ConvBlock(2, 3, 3, compute=EXACT, rngs=nnx.Rngs(0)))()
    x = np.random.default_rng(0).standard_normal((2, 4, 5, 2), np.float32)
    padded, kernel = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), np.asarray(block.conv.kernel[...])
    expected = sum(
        padded[:, row : row + 4, column : column + 5] @ kernel[row, column] for row in range(3) for column in range(3)
    )
    np.testing.assert_allclose(block(x, train=False), np.maximum(expected / np.sqrt(1 + 1e-5), 0), rtol=1e-4, atol=1e-5)


def test_layers_are_initialised_like_mmsegmentations():
    @nnx.jit  # compiles all draws at once
    def made():
        rngs = nnx.Rngs(0)
        return AuxiliaryHead(64, 96, 40, 0.1, compute=EXACT, rngs=rngs), ConvBlock(96, 64, 1, compute=EXACT, rngs=rngs)

    head, block = made()
    # sqrt(2 / fan out) and 0.01, estimated from 3840 numbers or more: 5 % are 4 standard deviations
    for layer, expected in (
        (head.convs[0].conv, np.sqrt(2 / (9 * 96))),
        (block.conv, np.sqrt(2 / 64)),
        (head.conv_seg, 0.01),
    ):
        assert np.std(layer.kernel[...]) == pytest.approx(expected, rel=0.05)
    assert not np.any(head.conv_seg.bias[...])
    np.testing.assert_array_equal(block.bn.scale[...], 1)
    np.testing.assert_array_equal(block.bn.bias[...], 0)


def test_larger_variants_are_computed():
    # conv stem, post-norm also in the modulation, LayerScale
    graph, state = filled(nnx.eval_shape(partial(make, "focalnet_huge_fl4", depths=(1, 1))))
    assert nnx.merge(graph, state).backbone.patch_embed.proj.padding == ((3, 3), (3, 3))
    logits = jax.jit(lambda state, x: nnx.merge(graph, state)(x))(state, photos(1))
    assert logits.shape == (1, 6, 9, CLASSES)
    assert np.isfinite(logits).all()


def test_larger_variants_have_maps_of_all_stages():
    model = nnx.eval_shape(lambda: make("focalnet_xlarge_fl4"))
    assert shapes_of(model, 50, 64, train=True) == [(2, 13, 16, CLASSES), (2, 4, 4, CLASSES)]


def test_training_needs_two_images(small):
    with pytest.raises(UserError, match=r"one value per channel in training .* 2 images per batch"):
        shapes_of(small, 64, 64, batch=1, train=True)
    assert shapes_of(small, 64, 64, batch=1) == [(1, 16, 16, CLASSES)]  # in evaluation


@pytest.mark.parametrize(
    ("heads", "options", "expected"),
    [
        ({"channels": 0}, {}, "channels is 0; expected a positive number"),
        ({"dropout": 1.0}, {}, r"dropout is 1.0; expected a rate in \[0, 1\)"),
        ({"pool_scales": (1, 0)}, {}, r"pool_scales is \(1, 0\); expected positive numbers of windows"),
        ({}, {"depths": (2,)}, r"depths is \(2,\); expected at least two stages"),
    ],
)
def test_arguments_outside_of_their_range_are_refused(heads, options, expected):
    with pytest.raises(UserError, match=expected):
        make(heads=heads, **options)
