"""The drawn maps and kernels equal those that the model computes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from focalnet_jax import visualize
from focalnet_jax.errors import UserError
from focalnet_jax.ops.product import without_bias
from focalnet_jax.visualize.figures import BlockMaps, coloured, enlarged
from focalnet_jax.visualize.sheets import map_sheets, scale
from tests.models import drawn_model

SMALL = {"embed_dim": 8, "depths": (1, 2), "num_classes": 5}


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).normal(size=(2, 32, 48, 3)).astype(np.float32)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"scan_blocks": False},
        {"use_postln": True, "use_postln_in_modulation": True, "use_layerscale": True, "normalize_modulator": True},
    ],
    ids=["scanned", "unrolled", "postln"],
)
def test_modulators_and_gates_are_those_a_pass_through_the_blocks_computes(images, options):
    model = drawn_model("focalnet_tiny_lrf", **SMALL, **options)
    for stage in model.stages:  # so that no level is nearly zero
        gates = stage.blocks.modulation.gates
        gates.bias[...] = jax.random.normal(jax.random.key(1), gates.bias.shape)
    maps = visualize.modulation_maps(model, images)
    assert [(each.modulator.shape, each.gates.shape) for each in maps] == [
        ((1, 2, 8, 12), (1, 2, 8, 12, 4)),
        ((2, 2, 4, 6), (2, 2, 4, 6, 4)),
    ]
    x = model.patch_embed(jnp.asarray(images))
    first = jax.tree.map(lambda leaf: leaf[0], model.stages[0].blocks)
    given = x if first.postln else first.norm1(x)
    modulation = first.modulation
    gates = modulation.gates(given)
    modulator = modulation.modulator(modulation.aggregate(without_bias(modulation.context, given), gates))
    # Compiled as a whole or operation by operation, results differ in the last digits.
    np.testing.assert_allclose(maps[0].gates[0], gates, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(maps[0].modulator[0], np.linalg.norm(modulator, axis=-1), rtol=1e-4)


def test_a_models_output_is_the_same_while_it_is_looked_at(images):
    model = drawn_model("focalnet_tiny_srf", **SMALL)
    seen, outputs = model.look(images, lambda block, x: x)
    for looked, plain in zip(outputs, model.features(images), strict=True):
        np.testing.assert_array_equal(looked, plain)
    np.testing.assert_allclose(seen[0][0], model.patch_embed(images), rtol=1e-6)


def test_class_activations_add_up_to_the_logits(images):
    model = drawn_model("focalnet_tiny_srf", **SMALL)
    model.head.bias[...] = jnp.arange(5.0)
    classes = np.array([[4, 0, 2], [1, 1, 3]])
    maps, logits = visualize.class_activation(model, images, classes)
    assert maps.shape == (2, 3, 4, 6)
    np.testing.assert_allclose(logits, model(images), rtol=1e-5)
    summed = maps.mean(axis=(2, 3)) + np.arange(5.0)[classes]
    np.testing.assert_allclose(summed, np.take_along_axis(logits, classes, axis=1), rtol=1e-5)


def test_a_model_without_a_classifier_has_no_class_activation(images):
    model = drawn_model("focalnet_tiny_srf", **SMALL | {"num_classes": 0})
    with pytest.raises(UserError, match="has no classifier"):
        visualize.class_activation(model, images, np.zeros((2, 1), int))


def test_the_receptive_field_ends_where_the_kernels_do():
    # Without the gate of the global level, which depends on the whole image.
    model = drawn_model("focalnet_tiny_srf", embed_dim=8, depths=(1,), focal_levels=1, focal_windows=3)
    block = model.stages[0].blocks
    block.modulation.gates.kernel[...] = block.modulation.gates.kernel[...].at[..., -1].set(0)
    images = np.random.default_rng(0).normal(size=(1, 36, 36, 3)).astype(np.float32)
    field = visualize.receptive_field(model, images)
    seen = np.argwhere(field > 0)
    # The centre is the fifth of nine positions, and 3x3 positions of 4 pixels around it have an effect.
    assert (seen.min(axis=0), seen.max(axis=0)) == (pytest.approx([12, 12]), pytest.approx([23, 23]))


def test_kernels_are_means_over_channels():
    model = drawn_model("focalnet_tiny_lrf", **SMALL)
    kernels = visualize.focal_kernels(model)
    assert [[each.shape for each in stage] for stage in kernels] == [
        [(1, 3, 3), (1, 5, 5), (1, 7, 7)],
        [(2, 3, 3), (2, 5, 5), (2, 7, 7)],
    ]
    whole = model.stages[1].blocks.modulation.focal_kernels[2].kernel[...]  # [D, k, k, 1, C]
    np.testing.assert_allclose(kernels[1][2][1, 3, 4], np.mean(whole[1, 3, 4, 0]), rtol=1e-6)


@pytest.mark.parametrize(("small", "large"), [((3, 5), (12, 20)), ((1, 2), (32, 48)), ((7, 7), (224, 224))])
def test_maps_are_enlarged_as_a_bilinear_resize_does(small, large):
    places = np.random.default_rng(0).normal(size=small).astype(np.float32)
    expected = jax.image.resize(places, large, "bilinear")
    np.testing.assert_allclose(enlarged(places, large), expected, atol=1e-5)


def test_below_each_map_is_what_its_colours_mean():
    norms, gates = np.float32([[2, 27], [3, 4]]), np.float32([-1, 11]).repeat(4).reshape(2, 2, 2)
    (sheet,) = map_sheets([np.zeros((112, 112, 3), np.uint8)], [BlockMaps("", norms, gates)])
    pixels = np.asarray(sheet)
    assert (pixels[-14:, :112] == 255).all()  # nothing below the image
    for place, (colours, limits) in enumerate((("viridis", (2, 27)), *[("coolwarm", (-11, 11))] * 2), 1):
        strip = np.asarray(scale(112, colours, limits))
        np.testing.assert_array_equal(pixels[-14:, 112 * place : 112 * (place + 1)], strip)
        ramp = strip[7, (strip[7] < 255).all(axis=-1) & (np.ptp(strip[7], axis=-1) > 0)]
        ends = coloured(np.float32([limits]), (1, 2), colours, limits)[0]
        np.testing.assert_allclose(ramp[[0, -1]].astype(int), ends.astype(int), atol=8)


def test_classes_and_stages_that_are_not_there_are_refused(images):
    model = drawn_model("focalnet_tiny_srf", **SMALL)
    for classes, message in (
        ([[0, 5], [0, 1]], "expected 0 to 4"),
        ([[-1], [0]], "expected 0 to 4"),
        ([0, 1], "one row per image"),
    ):
        with pytest.raises(UserError, match=message):
            visualize.class_activation(model, images, np.array(classes))
    for stage in (2, -3):
        with pytest.raises(UserError, match="the model has 2"):
            visualize.receptive_field(model, images, stage)


@pytest.mark.parametrize(
    ("ablation", "names"),
    [
        ({}, ("modulator", "gate, level 1", "gate, level 2", "gate, global")),
        ({"use_gates": False}, ("modulator",)),
        ({"use_global_level": False}, ("modulator", "gate, level 1", "gate, level 2")),
        ({"use_modulation": False}, ("added context", "gate, level 1", "gate, level 2", "gate, global")),
    ],
)
def test_only_what_a_model_has_is_shown_and_by_its_name(images, ablation, names):
    maps = visualize.modulation_maps(drawn_model("focalnet_tiny_srf", **SMALL, **ablation), images)
    for stage in maps:
        assert stage.names == names
        assert stage.gates.shape[-1] == len(names) - 1
        (sheet,) = map_sheets(
            [np.zeros((32, 48, 3), np.uint8)],
            [BlockMaps("", *(each[0, 0] for each in (stage.modulator, stage.gates)), stage.names)],
        )
        assert sheet.size == (4 * 48 * (1 + len(names)), 14 + 4 * 32 + 14)
