"""Detectors have the original's parameters, sizes of maps and initialisation, in every precision."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from focalnet_jax.errors import UserError
from focalnet_jax.model import variant_config
from focalnet_jax.model.heads.atss import ATSS, ATSSHead, summarize_atss
from focalnet_jax.model.heads.mask_rcnn import CascadeMaskRCNN, MaskRCNN, summarize_mask_rcnn
from focalnet_jax.model.heads.roi_heads import BoxHead, MaskHead, Upsample
from focalnet_jax.model.heads.rpn import RPNHead
from focalnet_jax.model.heads.sparse_rcnn import DIIHead, ProposalHead, SparseRCNN, summarize_sparse_rcnn
from focalnet_jax.model.precision import get_precision
from focalnet_jax.ops.compute import EXACT
from focalnet_jax.ops.dropout import example_keys
from focalnet_jax.parameters import named_leaves

SMALL = dict(embed_dim=4, depths=(1, 1, 1, 1))
HEADS = {
    ATSS: dict(channels=32, convs=1),
    MaskRCNN: dict(channels=4, hidden=6),
    CascadeMaskRCNN: dict(channels=4, hidden=6),
    SparseRCNN: dict(channels=8, proposals=3, dynamic=2, hidden=6),
}
CLASSES = 5
# https://github.com/microsoft/FocalNet, detection: windows and parameters in millions for 80 classes
WIDE = (11, 9, 9, 7)
MILLIONS = {
    (ATSS, "tiny_lrf", WIDE): 37.2,
    (MaskRCNN, "tiny_srf", 9): 48.68,
    (MaskRCNN, "tiny_lrf", 9): 49.43,
    (MaskRCNN, "small_srf", 9): 70.91,
    (MaskRCNN, "small_lrf", 9): 72.45,
    (MaskRCNN, "base_srf", 9): 109.54,
    (MaskRCNN, "base_lrf", 9): 111.59,
    (CascadeMaskRCNN, "tiny_lrf", WIDE): 87.1,
    (SparseRCNN, "tiny_lrf", WIDE): 111.2,
}


def make(kind, name="focalnet_tiny_srf", *, dtype="float32", heads=None, **options):
    config = variant_config(name, **(SMALL | options))
    return kind(config, CLASSES, precision=get_precision(dtype), rngs=nnx.Rngs(0), **(HEADS[kind] | (heads or {})))


@cache
def full_size(kind, name, windows):
    config = variant_config(f"focalnet_{name}", focal_windows=windows)
    return nnx.eval_shape(lambda: kind(config, 80, precision=get_precision("float32"), rngs=nnx.Rngs(0)))


def shapes_of(function, *arguments):
    return jax.tree.map(lambda each: each.shape, nnx.eval_shape(function, *arguments))


def images(height, width, batch=2):
    return jax.ShapeDtypeStruct((batch, height, width, 3), jnp.float32)


def rois(side, channels, batch=2, count=6):
    return jax.ShapeDtypeStruct((batch, count, side, side, channels), jnp.float32)


@pytest.mark.parametrize(
    ("kind", "name", "windows"), MILLIONS, ids=lambda value: getattr(value, "__name__", str(value))
)
def test_parameters_are_as_many_as_the_originals(kind, name, windows):
    model, expected = full_size(kind, name, windows), MILLIONS[kind, name, windows]
    found = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    digits = 2 if kind is MaskRCNN else 1
    assert round(found / 1e6, digits) == expected


def test_summaries_have_the_originals_cost():
    # GMACs for 800x1280 pixels in the original's README; its counts lack Sparse R-CNN's products of activations
    detectors = (
        (ATSS, summarize_atss, WIDE, 220),
        (CascadeMaskRCNN, summarize_mask_rcnn, WIDE, 751),
        (MaskRCNN, summarize_mask_rcnn, 9, 268),
        (SparseRCNN, summarize_sparse_rcnn, WIDE, 178),
    )
    for kind, summarize, windows, expected in detectors:
        model = full_size(kind, "tiny_lrf", windows)
        found = summarize(model, (800, 1280))
        assert found.macs / 1e9 == pytest.approx(expected, rel=0.025), kind
        assert found.params == sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


@pytest.mark.parametrize(("height", "width"), [(97, 130), (33, 4)])
def test_atss_has_levels_from_stride_8_to_128(height, width):
    model = nnx.eval_shape(partial(make, ATSS))
    sizes = [(-(-height // stride), -(-width // stride)) for stride in (8, 16, 32, 64, 128)]
    logits, deltas, centerness = shapes_of(lambda model, x: model(x), model, images(height, width))
    assert logits == [(2, *size, CLASSES) for size in sizes]
    assert deltas == [(2, *size, 4) for size in sizes]
    assert centerness == [(2, *size) for size in sizes]
    assert set(model.backbone.output_norms) == {"1", "2", "3"}


@pytest.mark.parametrize("kind", [MaskRCNN, CascadeMaskRCNN])
def test_mask_rcnn_has_anchors_boxes_and_masks(kind):
    model = nnx.eval_shape(partial(make, kind))
    sizes = [(-(-97 // stride), -(-130 // stride)) for stride in (4, 8, 16, 32, 64)]
    maps = nnx.eval_shape(lambda model, x: model.maps(x), model, images(97, 130))
    assert [each.shape for each in maps] == [(2, *size, 4) for size in sizes]
    logits, deltas = shapes_of(lambda model, maps: model.rpn(maps), model, maps)
    assert logits == [(2, *size, 3) for size in sizes]
    assert deltas == [(2, *size, 3, 4) for size in sizes]
    for stage in range(model.stages or 1):
        boxes = shapes_of(lambda model, x, stage=stage: model.box_head(x, stage, train=True), model, rois(7, 4))
        assert boxes == ((2, 6, CLASSES + 1), (2, 6, CLASSES, 4))
        masks = shapes_of(lambda model, x, stage=stage: model.mask_head(x, stage), model, rois(14, 4))
        assert masks == (2, 6, 28, 28, CLASSES)


def test_sparse_rcnn_has_six_stages_for_its_proposals():
    model = nnx.eval_shape(partial(make, SparseRCNN))
    maps = shapes_of(lambda model, x: model.maps(x), model, images(97, 130))
    assert maps == [(2, -(-97 // stride), -(-130 // stride), 8) for stride in (4, 8, 16, 32)]
    features = jax.ShapeDtypeStruct((2, 3, 8), jnp.float32)
    assert len(model.roi_head.bbox_head) == 6
    found = shapes_of(lambda model, x, y: model.box_head(x, y, 5), model, rois(7, 8, count=3), features)
    assert found == ((2, 3, CLASSES), (2, 3, 4), (2, 3, 8))


@pytest.mark.parametrize("kind", HEADS)
def test_outputs_are_float32_in_bfloat16(kind):
    model = nnx.eval_shape(partial(make, kind, dtype="bfloat16"))

    def outputs(model, x):
        if kind is ATSS:
            return model(x)
        maps = model.maps(x)
        assert maps[0].dtype == jnp.bfloat16
        small, large = (jnp.zeros((2, 3, side, side, maps[0].shape[-1]), jnp.bfloat16) for side in (7, 14))
        if kind is SparseRCNN:
            features = jnp.broadcast_to(model.proposals()[1], (2, 3, 8))
            return model.box_head(small, features, 0)[:2]
        return model.rpn(maps), model.box_head(small), model.mask_head(large)

    found = jax.tree.leaves(nnx.eval_shape(outputs, model, images(64, 64)))
    assert {leaf.dtype for leaf in found} == {jnp.dtype(jnp.float32)}


def test_stochastic_depth_depends_on_the_examples_own_key():
    options = dict(drop_path_rate=0.5, depths=(2, 2))
    model = nnx.jit(partial(make, ATSS, **options))()
    x = np.random.default_rng(0).standard_normal((2, 32, 32, 3), np.float32)
    keys = example_keys(jax.random.key(0), 2)
    run = nnx.jit(lambda model, x, keys: model(x, keys)[1])
    found, reordered = run(model, x, keys), run(model, x[::-1], keys[::-1])
    for mine, other in zip(found, reordered, strict=True):
        np.testing.assert_allclose(other[::-1], mine, rtol=1e-4, atol=1e-5)
    assert not np.allclose(run(model, x, keys[::-1])[0], found[0], atol=1e-5)


def std(layer):
    return float(np.std(layer.kernel[...]))


def test_heads_are_initialised_like_mmdetections():
    @nnx.jit  # compiles all draws at once
    def made():
        options = dict(compute=EXACT, rngs=nnx.Rngs(0))
        return (
            ATSSHead(2, 64, 1, 40, **options),
            RPNHead(64, 3, **options),
            BoxHead(16, 64, 40, convs=0, layers=2, **options),
            MaskHead(32, 40, **options),
        )

    atss, rpn, box, mask = made()
    # At least 576 numbers, of which 15 % are 5 standard deviations
    for layer, expected in (
        (atss.cls_convs[0].conv, 0.01),
        (atss.atss_cls, 0.01),
        (atss.atss_reg, 0.01),
        (atss.atss_centerness, 0.01),
        (rpn.rpn_conv, 0.01),
        (rpn.rpn_reg, 0.01),
        (box.fc_cls, 0.01),
        (box.fc_reg, 0.001),
        (box.shared_fcs[0], np.sqrt(2 / (49 * 16 + 64))),
        (mask.convs[0].conv, np.sqrt(2 / (9 * 32))),
        (mask.upsample, np.sqrt(2 / (4 * 32))),
        (mask.conv_logits, np.sqrt(2 / 40)),
    ):
        assert std(layer) == pytest.approx(expected, rel=0.15)
    np.testing.assert_allclose(jax.nn.sigmoid(atss.atss_cls.bias[...]), 0.01, rtol=1e-5)
    for layer in (atss.atss_reg, rpn.rpn_cls, box.fc_cls, box.shared_fcs[0], mask.upsample, mask.conv_logits):
        assert not np.any(layer.bias[...])
    assert [float(each.scale[0]) for each in atss.scales] == [1, 1]


def test_sparse_rcnn_is_initialised_like_mmdetections():
    @nnx.jit
    def made():
        rngs = nnx.Rngs(0)
        return DIIHead(32, 8, 48, 40, compute=EXACT, rngs=rngs), ProposalHead(40, 32, rngs=rngs)

    head, proposals = made()
    for layer, expected in (
        (head.attention.attn.in_proj, np.sqrt(2 / (32 + 96))),
        (head.instance_interactive_conv.dynamic_layer, np.sqrt(2 / (32 + 512))),
        (head.ffn.layers[1], np.sqrt(2 / (48 + 32))),
        (head.fc_cls, np.sqrt(2 / (32 + 40))),
    ):
        assert std(layer) == pytest.approx(expected, rel=0.15)
    assert np.abs(head.ffn.layers[0].bias[...]).max() == pytest.approx(1 / np.sqrt(32), rel=0.1)
    np.testing.assert_allclose(jax.nn.sigmoid(head.fc_cls.bias[...]), 0.01, rtol=1e-5)
    np.testing.assert_array_equal(proposals.init_proposal_bboxes[...], [[0.5, 0.5, 1, 1]] * 40)
    assert float(np.std(proposals.init_proposal_features[...])) == pytest.approx(1, rel=0.15)


def test_upsampling_puts_the_kernel_at_each_position():
    layer = nnx.jit(lambda: Upsample(2, 3, compute=EXACT, rngs=nnx.Rngs(0)))()
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 2), np.float32)
    found, kernel = np.asarray(layer(x)), np.asarray(layer.kernel[...])
    assert found.shape == (2, 6, 8, 3)
    for row in range(2):
        for column in range(2):
            np.testing.assert_allclose(found[:, row::2, column::2], x @ kernel[row, column], rtol=1e-5, atol=1e-6)


def test_only_the_cascade_has_running_statistics():
    for kind in HEADS:
        names = named_leaves(nnx.to_pure_dict(nnx.state(nnx.eval_shape(partial(make, kind)), nnx.BatchStat)))
        count = 3 * 4 * 2 if kind is CascadeMaskRCNN else 0  # stages, convolutions, mean and variance
        assert len(names) == count


@pytest.mark.parametrize(
    ("kind", "heads", "options", "expected"),
    [
        (ATSS, {"channels": 48}, {}, "channels is 48; expected a multiple of 32"),
        (ATSS, {"convs": 0}, {}, "convs is 0; expected a positive number"),
        (ATSS, {}, {"depths": (2,)}, r"depths is \(2,\); expected at least 2 stages"),
        (MaskRCNN, {"hidden": -1}, {}, "hidden is -1; expected a positive number"),
        (SparseRCNN, {"channels": 12}, {}, "channels is 12; expected a multiple of 8"),
    ],
)
def test_arguments_outside_of_their_range_are_refused(kind, heads, options, expected):
    with pytest.raises(UserError, match=expected):
        make(kind, heads=heads, **options)
