"""The normalization in a config of mmsegmentation belongs to the weights; other text is reported and not followed."""

import jax
import numpy as np
import pytest

from focalnet_jax import load_model
from focalnet_jax.convert.__main__ import main
from focalnet_jax.convert.mmseg_configs import configured_normalization
from focalnet_jax.convert.read_upernet import read_upernet
from focalnet_jax.convert.upernet import all_variables
from focalnet_jax.data.preprocessing import IMAGENET, Normalization
from focalnet_jax.parameters import named_leaves
from tests.convert.golden_files import GOLDEN
from tests.convert.torch_writer import save

IMAGENETS = "mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]"
OWN, OWNS = Normalization((0.2, 0.4, 0.6), (0.1, 0.2, 0.3)), "mean=[51, 102, 153], std=[25.5, 51.0, 76.5]"
# As `pretty_text` of mmcv 1.7 and mmengine 0.10 formats the configs of mmsegmentation 0.30 and 1.2.
OLD = """norm_cfg = dict(type='SyncBN', requires_grad=True)
model = dict(
    type='EncoderDecoder',
    backbone=dict(type='FocalNet', init_cfg=dict(type='TruncNormal', layer='Linear', mean=0.0, std=0.02)),
    decode_head=dict(type='UPerHead', norm_cfg=dict(type='SyncBN', requires_grad=True)))
img_norm_cfg = dict(
    {values}, to_rgb={order})
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='Normalize',
        {values},
        to_rgb={order}),
]
data = dict(
    test=dict(
        pipeline=[
            dict(
                type='MultiScaleFlipAug',
                transforms=[dict(type='Normalize', {values}, to_rgb={order})])
        ]))
"""
NEW = """data_preprocessor = dict(
    type='SegDataPreProcessor', {values}, bgr_to_rgb={order}, pad_val=0, seg_pad_val=255, size=(512, 512))
model = dict(
    data_preprocessor=dict(
        type='SegDataPreProcessor', {values}, bgr_to_rgb={order}, pad_val=0, seg_pad_val=255, size=(512, 512)),
    type='EncoderDecoder')
"""
NO_MEAN = "model = dict(data_preprocessor=dict(type='SegDataPreProcessor', mean=None, std=None))"
LAYOUTS = {"config": OLD, "cfg": NEW}


@pytest.fixture(scope="module")
def tensors():
    """Mmsegmentation's state dict."""
    with np.load(GOLDEN / "upernet.npz") as file:
        weights = {name.removeprefix("weights/"): file[name] for name in file.files if name.startswith("weights/")}
    return {name: array.astype(np.int64 if name.endswith("tracked") else np.float32) for name, array in weights.items()}


def written(path, tensors, key, text):
    meta = {"CLASSES": ("wall", "sky", "tree"), key: text}
    return save({"meta": meta, "state_dict": tensors}, path)


@pytest.mark.parametrize("key", LAYOUTS)
@pytest.mark.parametrize(("values", "expected"), [(IMAGENETS, IMAGENET), (OWNS, OWN)], ids=["imagenet", "own"])
def test_mean_and_std_of_the_config_belong_to_the_weights(key, values, expected, tensors, tmp_path):
    text = LAYOUTS[key].format(values=values, order=True)
    weights = read_upernet(written(tmp_path / "a.pth", tensors, key, text))
    assert weights.info.preprocessing.normalization == expected
    assert weights.info.normalization_only
    assert weights.info.classes == ("wall", "sky", "tree")
    assert weights.decisions == ()


@pytest.mark.parametrize("key", LAYOUTS)
def test_weights_for_blue_first_compute_the_same_for_red_first(key, tensors, tmp_path):
    text = LAYOUTS[key].format(values=OWNS, order=False)
    given = written(tmp_path / "a.pth", tensors, key, text)
    weights, plain = read_upernet(given), read_upernet(written(tmp_path / "b.pth", tensors, key, ""))
    assert weights.info.preprocessing.normalization == Normalization(OWN.mean[::-1], OWN.std[::-1])
    assert weights.decisions[-1].startswith("input channels of the patch embedding reversed")
    found, expected = (named_leaves(all_variables(each)) for each in (weights, plain))
    first = "backbone/patch_embed/proj/kernel"
    np.testing.assert_array_equal(found.pop(first), expected.pop(first)[:, :, ::-1])
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
    image = np.random.default_rng(0).random((1, 32, 32, 3), np.float32)
    with pytest.warns(UserWarning, match="patch embedding reversed"):
        model = load_model(given)
    red_first, blue_first = (
        jax.jit(lambda images, model=model: model(images)) for model in (model, load_model(tmp_path / "b.pth"))
    )
    # float32, summed over the channels in another order
    np.testing.assert_allclose(red_first(image[..., ::-1]), blue_first(image), rtol=1e-4, atol=1e-5)


def test_the_normalization_is_kept_by_formats_that_have_a_place_for_it(tensors, tmp_path, capsys):
    source = written(tmp_path / "a.pth", tensors, "cfg", NEW.format(values=OWNS, order=True))
    for format, name in (("mmseg", "b.safetensors"), ("huggingface", "c"), ("orbax", "d")):
        assert main([str(source), str(tmp_path / name), "--to", format]) == 0
        info = read_upernet(tmp_path / name).info
        assert info.preprocessing.normalization == OWN
        assert info.normalization_only
    assert (
        "in mmsegmentation, normalize images with mean=[51.0, 102.0, 153.0], std=[25.5, 51.0, 76.5], bgr_to_rgb=True"
        in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model = dict(", "meta.cfg in the file is not a readable config"),
        ("a\0b", "not a readable config"),
        ("x = " + "(" * 500 + ")" * 500, "not a readable config"),
        ("x = " + "-" * 200_000 + "1", "not a readable config"),
        ("x" * 1_000_001, "not a readable config"),
        ("x = dict(type='Normalize', mean=open('f').read(), std=1)", "not a readable config"),
        (f"x = dict(type='Normalize', mean=[{'9' * 5000}] * 3, std=1)", "not a readable config"),
        (NEW.format(values="mean=[1, 2], std=[3, 4]", order=True), r"mean is \[1, 2\] and std \[3, 4\]; expected 3"),
        (NEW.format(values="mean='abc', std=[1, 2, 3]", order=True), "expected 3 numbers each"),
        (NEW.format(values="mean=[100, 100, 100], std=[50, 0, 50]", order=True), "expected positive numbers"),
        (
            NEW.format(values="mean=[.4, .4, .4], std=[.2, .2, .2]", order=True),
            r"do not fit pixel values in \[0, 255\]",
        ),
        (NEW.format(values=IMAGENETS, order=False), "ImageNet's mean with the channels blue, green, red"),
        (NEW.format(values=OWNS, order="True, rgb_to_bgr=True"), "rgb_to_bgr=True is for images"),
        (NEW.format(values=OWNS, order=True) + OLD.format(values=IMAGENETS, order=True), "several normalizations"),
    ],
)
def test_a_config_that_cannot_be_followed_is_one_line_and_imagenets_values_are_used(text, message, tensors, tmp_path):
    path = written(tmp_path / "a.pth", tensors, "cfg", text)
    weights = read_upernet(path)
    assert weights.info.preprocessing is None
    assert "\n" not in weights.decisions[-1]
    with pytest.warns(UserWarning, match=f"{message}.*images are normalized with ImageNet's mean and std"):
        load_model(path)


@pytest.mark.parametrize("text", ["", "x = 1", "model = dict(init_cfg=dict(type='Normal', mean=0, std=1))", NO_MEAN])
def test_configs_without_a_normalization_say_nothing(text):
    assert configured_normalization({"meta.cfg": text}) is None
    assert configured_normalization({}) is None


def test_nothing_in_a_config_is_executed(tmp_path):
    mark = tmp_path / "mark"
    text = f"open({str(mark)!r}, 'w')\nx = dict(type='Normalize', mean=[open({str(mark)!r}, 'w')] * 3, std=[1, 1, 1])"
    assert "not a readable config" in configured_normalization({"meta.cfg": text}).refused
    assert not mark.exists()
