"""Images are preprocessed as files next to weights specify; unsupported settings are errors that name the key."""

import json
import math

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from focalnet_jax.convert.preprocessors import from_timm, from_transformers, to_timm, to_transformers
from focalnet_jax.data.pixels import resize
from focalnet_jax.data.preprocessing import (
    FILTERS,
    IMAGENET,
    Normalization,
    Preprocessing,
    from_config,
    from_dict,
)
from focalnet_jax.data.transforms import eval_transform
from focalnet_jax.errors import UserError
from focalnet_jax.settings.checks import INTERPOLATIONS, RESIZE_MODES

HALF = Normalization((0.5,) * 3, (0.5,) * 3)
VIT = {"image_processor_type": "ViTImageProcessor", "size": {"height": 48, "width": 64}}


@pytest.fixture(scope="module")
def photo():
    return Image.fromarray(load_sample_image("flower.jpg"))  # 640x427


def resized(image, size, interpolation="bicubic"):
    """Resizes rows, then columns, like Pillow up to version 12."""
    kind = FILTERS[interpolation]
    return image.resize((size[0], image.height), kind).resize(size, kind)


@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize("size", [(50, 33), (700, 500), (640, 9)])
def test_every_filter_has_pillows_pixels(photo, interpolation, size):
    expected = np.asarray(resized(photo, size, interpolation) if interpolation != "nearest" else photo.resize(size, 0))
    whole = (0, 0, photo.width, photo.height)
    got = resize(np.asarray(photo), whole, size, (0, 0, *size), interpolation=interpolation)
    np.testing.assert_array_equal(got, expected)
    part = resize(np.asarray(photo), whole, size, (5, 2, 20, 6), interpolation=interpolation, mirrored=True)
    np.testing.assert_array_equal(part, expected[2:8, 5:25][:, ::-1])


def test_a_stretching_processor_gives_the_whole_picture(photo):
    how = from_transformers(VIT | {"resample": 2}, "here")
    np.testing.assert_array_equal(eval_transform(how)(np.asarray(photo)), resized(photo, (64, 48), "bilinear"))
    assert (how.normalization, how.size) == (HALF, (48, 64))
    cropped = from_transformers(VIT | {"do_center_crop": True, "crop_size": {"height": 32, "width": 40}}, "here")
    expected = resized(photo, (64, 48), "bilinear").crop((12, 8, 52, 40))
    np.testing.assert_array_equal(eval_transform(cropped)(np.asarray(photo)), expected)


def test_a_crop_larger_than_the_picture_is_padded_as_by_its_library(photo):
    small = np.asarray(resized(photo, (31, 20)))
    black = {"image_processor_type": "BitImageProcessor", "do_resize": False, "crop_size": 32}
    padded = eval_transform(from_transformers(black, "here"))(small)
    np.testing.assert_array_equal(padded[6:26, 1:], small)
    assert not padded[:6].any()
    assert not padded[26:].any()
    assert not padded[:, 0].any()
    border = from_timm({"input_size": [3, 64, 64], "crop_pct": 1.0, "crop_mode": "border"}, "here")
    got = eval_transform(border)(np.asarray(photo))
    np.testing.assert_array_equal(got[10:53], resized(photo, (64, 43)))
    assert {tuple(level) for level in got[:10].reshape(-1, 3)} == {IMAGENET.grey}


@pytest.mark.parametrize(
    ("stated", "same"),
    [
        ({"image_processor_type": "BitImageProcessorFast", "size": {"shortest_edge": 256}}, {"resized": (256, 256)}),
        ({"feature_extractor_type": "ViTFeatureExtractor", "size": 32}, {"size": (32, 32), "mode": "stretch"}),
        ({"feature_extractor_type": "CLIPFeatureExtractor", "size": 40, "crop_size": 32}, {"resized": (40, 40)}),
        ({"image_processor_type": "ViTImageProcessorPil", "size": [32, 48]}, {"size": (32, 48)}),
        ({"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 224}}, {"resized": (256, 256)}),
        (
            {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 384}},
            {"size": (384, 384), "mode": "stretch"},
        ),
        (
            VIT | {"do_rescale": True, "rescale_factor": 1 / 127.5, "image_mean": 1.0, "image_std": 1.0},
            {"normalization": HALF},
        ),
        (VIT | {"do_rescale": False, "image_mean": [127.5] * 3, "image_std": 127.5}, {"normalization": HALF}),
        (VIT | {"do_normalize": False}, {"normalization": Normalization((0.0,) * 3, (1.0,) * 3)}),
        (VIT | {"resample": None, "image_mean": None}, {"interpolation": "bilinear", "normalization": HALF}),
        ({"image_processor": VIT | {"resample": 1}, "tokenizer": {}}, {"interpolation": "lanczos"}),
        ({"size": {"shortest_edge": 30, "longest_edge": None}, "crop_size": [24, 28]}, {"size": (24, 28)}),
    ],
)
def test_processors_of_transformers_are_followed_with_their_own_defaults(stated, same):
    how = from_transformers(stated, "here")
    assert {key: getattr(how, key) for key in same} == same


@pytest.mark.parametrize(
    ("stated", "key"),
    [
        (VIT | {"resample": 9}, "resample is 9"),
        (VIT | {"resample": "bicubic"}, "resample is 'bicubic'"),
        (VIT | {"image_std": [0.5, 0.5, 0.0]}, "image_std is [0.5, 0.5, 0.0]"),
        (VIT | {"image_std": [math.nan] * 3}, "image_std is [nan"),
        (VIT | {"image_mean": [0.5]}, "image_mean has 1 channels"),
        (VIT | {"image_mean": "0.5"}, "image_mean is 0.5; expected finite numbers"),
        (VIT | {"do_pad": True}, "do_pad is True"),
        (VIT | {"do_flip_channel_order": True}, "do_flip_channel_order is True"),
        (VIT | {"do_resize": "yes"}, "do_resize is 'yes'"),
        (VIT | {"do_resize": False}, "do_resize and do_center_crop are false"),
        (VIT | {"rescale_factor": 0}, "rescale_factor is 0"),
        (VIT | {"rescale_factor": math.inf}, "rescale_factor is inf"),
        (VIT | {"rescale_offset": True}, "rescale_offset is True"),
        (VIT | {"size": {"longest_edge": 64}}, "size is {'longest_edge': 64}"),
        (VIT | {"size": {"shortest_edge": 64, "longest_edge": 96}}, "size is {"),
        (VIT | {"size": {"height": 64}}, "size is {'height': 64}"),
        (VIT | {"size": {"height": 64, "width": -1}}, "size is [64, -1]"),
        (VIT | {"size": {"shortest_edge": 64}}, "do_center_crop is false"),
        (VIT | {"do_center_crop": True, "crop_size": {"height": 1e3}}, "crop_size is"),
        (
            {"image_processor_type": "EfficientNetImageProcessor"},
            "image_processor_type is 'EfficientNetImageProcessor'",
        ),
        ({"image_processor_type": "TorchScript"}, "image_processor_type is 'TorchScript'"),
    ],
)
def test_a_processor_that_cannot_be_followed_is_refused_by_its_key(stated, key):
    with pytest.raises(UserError) as error:
        from_transformers(stated, "a/preprocessor_config.json")
    assert str(error.value).startswith(f"a/preprocessor_config.json: {key}")


@pytest.mark.parametrize(
    ("stated", "key"),
    [
        ({"input_size": [1, 224, 224]}, "input_size has 1 channels"),
        ({"input_size": [224, 224]}, "input_size is [224, 224]"),
        ({"crop_mode": "corner"}, "crop_mode is 'corner'"),
        ({"crop_pct": math.nan}, "crop_pct is nan"),
        ({"crop_pct": "0.9"}, "crop_pct is '0.9'"),
        ({"interpolation": "area"}, "interpolation is 'area'"),
        ({"mean": [0.5, 0.5]}, "mean has 2 channels"),
        ({"std": [1, 1, -1]}, "std is [1, 1, -1]"),
    ],
)
def test_a_configuration_of_timm_that_cannot_be_followed_is_refused_by_its_key(stated, key):
    with pytest.raises(UserError) as error:
        from_timm(stated, "config.json")
    assert str(error.value).startswith(f"config.json: {key}")


def test_every_way_to_prepare_pictures_is_stored_and_read_again():
    timm = [{}, {"crop_mode": "border"}, {"crop_mode": "squash", "crop_pct": 1.0}, {"input_size": [3, 192, 256]}]
    ways = [from_timm(stated | {"interpolation": "random"}, "here") for stated in timm] + [
        from_transformers(VIT, "here")
    ]
    for how in ways:
        assert from_dict(json.loads(json.dumps(how.to_dict()))) == how
        assert from_timm(to_timm(how), "there").target == how.target
    for how in (ways[0], ways[2], ways[4]):
        again = from_transformers(to_transformers(how), "there")
        assert (again.size, again.target, again.mode) == (how.size, how.target, how.mode)
        assert (again.interpolation, again.normalization) == (how.interpolation, how.normalization)
    assert to_transformers(ways[1]) is None  # padded with grey
    assert to_transformers(ways[3]) is None  # covers 219x292 pixels, whose shorter side depends on the picture
    for side in range(1, 600):  # timm's crop fraction restores any size of the resized side
        how = Preprocessing((side, side), resized=(side + 29, side + 29), crop_pct=None)
        assert from_timm(to_timm(how), "there").target == how.target
    for changed in ({"mode": "sideways"}, {"size": [1]}, {"more": 1}, {"normalization": {"mean": 0}}, {"fill": [1, 2]}):
        with pytest.raises(UserError, match="preprocessing: "):
            from_dict(ways[0].to_dict() | changed)


def test_another_size_crops_the_same_fraction():
    assert Preprocessing().at((384, 384)).target == (438, 438)
    assert from_timm({"crop_pct": 0.9}, "here").at((384, 384)).target == (426, 426)
    assert from_transformers({"size": 40, "crop_size": 32}, "here").at((64, 128)).target == (80, 160)
    assert from_config({"image_size": 16, "eval_resize": 16}).at((32, 32)).target == (32, 32)


def test_the_configs_choices_are_those_there_are():
    assert set(INTERPOLATIONS) == set(FILTERS)
    assert len({Preprocessing(mode=mode).describe() for mode in RESIZE_MODES}) == len(RESIZE_MODES)
    assert from_config({"image_size": 224}) == Preprocessing()  # of a run stored before the other keys existed
    with pytest.raises(UserError, match=r"no effect with data\.eval_resize_mode=none"):
        from_config({"image_size": 224, "eval_resize": 256, "eval_resize_mode": "none"})
