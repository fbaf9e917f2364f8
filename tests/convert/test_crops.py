"""If libraries place crops differently, conversions keep the pixels of every image or report the difference."""

import json
from dataclasses import replace

import numpy as np
import pytest

from focalnet_jax.convert.preprocessors import from_timm, from_transformers
from focalnet_jax.convert.weights import read_weights
from focalnet_jax.convert.write import write_weights
from focalnet_jax.data.preprocessing import from_config
from focalnet_jax.data.transforms import eval_transform
from focalnet_jax.inference import load_classifier
from tests.convert.golden_files import GOLDEN, OPTIONS

SRF = OPTIONS["huggingface_srf"]
CROP = {"crop_size": {"height": 32, "width": 32}, "do_center_crop": True}
TIMM = [
    {"input_size": [3, *size], "crop_pct": share, "crop_mode": mode}
    for size in ((32, 32), (32, 48))
    for share in (0.8, 0.9, 0.95, 1.0, 1.2)
    for mode in ("center", "squash", "border")
]
TRANSFORMERS = [
    *({"size": {"shortest_edge": side}, **CROP} for side in (24, 32, 33, 34, 35, 36, 40)),
    *({"size": {"height": 39, "width": side}, **CROP} for side in (32, 33, 35, 40)),
    {"do_resize": False, **CROP},
    {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 32}, "crop_pct": 0.8},
    {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 32}, "crop_pct": 0.9},
    {"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 48}},
    {"image_processor_type": "DeiTImageProcessor", "size": {"height": 35, "width": 36}, **CROP},
]
CONFIGS = [{"image_size": 32}, {"image_size": 32, "eval_resize": 35}, {"image_size": 32, "eval_resize_mode": "none"}]
SETTINGS = [
    *(from_timm(stated, "timm") for stated in TIMM),
    *(from_transformers(stated, "transformers") for stated in TRANSFORMERS),
    *map(from_config, CONFIGS),
]
SIZES = [(40, 40), *((50, 50 + more) for more in range(1, 24)), *((50 + more, 50) for more in (3, 7, 12, 19)), (20, 61)]
PHOTOS = [np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8) for size in SIZES]


def in_file(folder, format):
    """Returns the preprocessing that a library reads from a directory, or None if no file has it."""
    if format == "timm":
        stated = json.loads((folder / "config.json").read_text())["pretrained_cfg"]
        return from_timm(stated, "timm") if "crop_mode" in stated else None
    file = folder / "preprocessor_config.json"
    return from_transformers(json.loads(file.read_text()), "transformers") if file.exists() else None


def differing(one, other):
    """Returns the number of images for which two preprocessings give different pixels."""
    assert one.normalization == other.normalization
    ways = [eval_transform(how) for how in (one, other)]
    return sum(not np.array_equal(ways[0](photo), ways[1](photo)) for photo in PHOTOS)


@pytest.fixture(scope="module")
def weights():
    return read_weights(GOLDEN / "huggingface_srf.safetensors", options=SRF)


@pytest.mark.parametrize("number", range(len(SETTINGS)))
def test_conversions_keep_all_pixels_and_report_where_a_library_differs(number, weights, tmp_path):
    how = SETTINGS[number]
    held = replace(weights, info=replace(weights.info, preprocessing=how))
    for step, format in enumerate(("timm", "huggingface", "orbax", "huggingface", "timm")):
        folder = tmp_path / str(step)
        report = write_weights(held, folder, format=format)
        held = read_weights(folder, options=SRF)
        assert not differing(held.info.follow(), how)
        if format != "orbax":
            stated = in_file(folder, format)
            count = len(PHOTOS) if stated is None else differing(stated, how)
            if stated is not None:  # not a difference for all images
                assert count < 0.75 * len(PHOTOS)
            assert any("config.json: " in note for note in report.notes) or not count


@pytest.mark.parametrize("stated", [{"crop_pct": 0.9}, {"crop_pct": 0.9, "crop_mode": "squash"}, {"crop_pct": 0.8}])
def test_predictions_of_a_timm_directory_are_the_same_after_conversion(stated, weights, tmp_path):
    how = from_timm(stated | {"input_size": [3, 32, 32]}, "timm")
    held = replace(weights, info=replace(weights.info, preprocessing=how))
    write_weights(held, tmp_path / "timm", format="timm")
    write_weights(read_weights(tmp_path / "timm", options=SRF), tmp_path / "there", format="huggingface")
    before, after = load_classifier(tmp_path / "timm", options=SRF), load_classifier(tmp_path / "there")
    np.testing.assert_array_equal(after.logits(PHOTOS), before.logits(PHOTOS))


def test_a_file_that_was_edited_after_conversion_counts(weights, tmp_path):
    how = from_timm({"crop_pct": 0.8, "input_size": [3, 32, 32]}, "timm")
    held = replace(weights, info=replace(weights.info, preprocessing=how))
    write_weights(held, tmp_path / "it", format="huggingface")
    assert read_weights(tmp_path / "it").info.follow().rounding == "nearest"
    file = tmp_path / "it" / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"size": {"shortest_edge": 36}}))
    edited = read_weights(tmp_path / "it").info.follow()
    assert (edited.target, edited.rounding) == ((36, 36), "down")
