"""Images are preprocessed like by transformers' processors and timm's transforms."""

import json

import numpy as np
import pytest
import safetensors.torch
import timm.data
import torch
from flax import nnx
from PIL import Image
from sklearn.datasets import load_sample_images
from transformers import AutoImageProcessor

import focalnet_jax
from focalnet_jax.convert.huggingface import transformers_info
from focalnet_jax.convert.info import WeightsInfo
from focalnet_jax.convert.preprocessors import from_timm
from focalnet_jax.convert.weights import Weights
from focalnet_jax.convert.write import write_weights
from focalnet_jax.data.normalization import normalize
from focalnet_jax.data.transforms import eval_transform

CROP = {"height": 56, "width": 40}
PROCESSORS = [
    {},  # missing keys have the processor's defaults
    {"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 64}, "crop_size": CROP, "resample": 3},
    {"image_processor_type": "BitImageProcessorFast", "size": 64, "crop_size": 57, "image_mean": [0.485, 0.456, 0.406]},
    {"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 40}, "crop_size": 57},
    {"image_processor_type": "BitImageProcessor", "size": CROP, "crop_size": 57, "resample": 5},
    {"image_processor_type": "ViTImageProcessor", "size": CROP},
    {"image_processor_type": "ViTImageProcessor", "size": CROP, "resample": 1, "do_normalize": False},
    {"image_processor_type": "ViTImageProcessor", "size": [56, 40], "resample": 4, "rescale_factor": 1 / 127.5},
    {"image_processor_type": "ViTImageProcessor", "size": 48, "resample": 0, "do_rescale": False},
    {"image_processor_type": "ViTImageProcessor", "image_std": [0.1, 0.2, 0.3], "image_mean": 0.4},
    {"feature_extractor_type": "ViTFeatureExtractor", "size": 48, "resample": 2},
    {"image_processor_type": "ViTImageProcessor", "do_resize": False, "do_center_crop": True, "crop_size": 301},
    {"image_processor_type": "DeiTImageProcessor"},
    {"image_processor_type": "DeiTImageProcessor", "size": 70, "crop_size": 57},
    {"image_processor_type": "CLIPImageProcessor", "size": 64, "crop_size": 57},
    {"feature_extractor_type": "CLIPFeatureExtractor", "size": 64, "crop_size": 57},
    {"image_processor_type": "SiglipImageProcessor", "size": CROP},
    {"image_processor_type": "BeitImageProcessor", "size": 48, "do_center_crop": True, "crop_size": 33},
    {"image_processor_type": "PvtImageProcessor", "size": CROP},
    {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 224}},
    {"image_processor_type": "ConvNextImageProcessor", "size": 96, "crop_pct": 0.7},
    {"feature_extractor_type": "ConvNextFeatureExtractor", "size": 384, "resample": 2},
    {"image_processor_type": "BitImageProcessor", "crop_size": 57, "do_resize": None},  # resizing is off
    {"image_processor_type": "ViTImageProcessor", "size": CROP, "do_normalize": None, "crop_size": None},
    {"image_processor_type": "DeiTImageProcessor", "size": CROP, "do_center_crop": None, "do_rescale": None},
]
TIMM = [
    {"num_classes": 3},
    {"crop_pct": 0.9, "interpolation": "bicubic"},  # timm's FocalNets
    {"crop_pct": 1.0, "input_size": [3, 384, 384], "interpolation": "bilinear"},
    {"crop_pct": 0.95, "input_size": [3, 64, 64], "crop_mode": "squash", "mean": [0.5] * 3, "std": [0.5] * 3},
    {"crop_pct": 1.0, "input_size": [3, 64, 96], "crop_mode": "squash", "interpolation": "lanczos"},
    {"crop_pct": 0.9, "input_size": [3, 64, 64], "crop_mode": "border", "interpolation": "box"},
    {"crop_pct": 1.0, "input_size": [3, 64, 96], "crop_mode": "border", "mean": [0.2, 0.4, 0.6]},
    {"crop_pct": 0.875, "input_size": [3, 64, 96], "interpolation": "hamming"},
    {"crop_pct": 0.9, "input_size": [3, 97, 65], "interpolation": "nearest"},
    {"crop_pct": 1.5, "input_size": [3, 65, 65]},  # padded with black
]


@pytest.fixture(scope="module")
def pictures():
    china, flower = (Image.fromarray(image) for image in load_sample_images().images)
    return [china, flower.crop((100, 0, 400, 427)), flower.resize((33, 50))]


def assert_same(how, picture, theirs):
    """Asserts equal pixels. A pixel value that differs by 1 changes the result by 1/255 or more, far above rounding."""
    ours = np.asarray(normalize(eval_transform(how)(np.asarray(picture))[None], how.normalization))[0]
    assert ours.shape == theirs.shape
    # float32 on both sides, computed in different orders: a few units in the last place of the largest value
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6 * max(1, np.abs(theirs).max()))


@pytest.mark.parametrize("stated", PROCESSORS, ids=lambda each: json.dumps(each)[:100])
def test_transformers(stated, pictures, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "focalnet"}))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(stated))
    processor = AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    how = transformers_info(tmp_path, 0).follow()
    for picture in pictures:
        theirs = processor(picture, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
        assert_same(how, picture, theirs)


@pytest.mark.parametrize("stated", TIMM, ids=lambda each: json.dumps(each)[:100])
def test_timm(stated, pictures):
    resolved = timm.data.resolve_data_config(pretrained_cfg=stated)
    transform = timm.data.create_transform(**resolved, is_training=False)
    how = from_timm(stated, "here")
    for picture in pictures:
        theirs = transform(picture)
        assert theirs.dtype == torch.float32
        assert_same(how, picture, theirs.permute(1, 2, 0).numpy())


@pytest.mark.parametrize("released", [False, True])
def test_timm_loads_a_directory_written_for_it_with_its_preprocessing(released, tmp_path):
    own = {"use_postln": True, "use_layerscale": True, "use_conv_embed": True, "embed_dim": 16, "depths": (1, 2)}
    model = focalnet_jax.create_model("focalnet_tiny_srf", num_classes=3, **({} if released else own))
    name = "focalnet_tiny_srf" if released else None
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    stated = WeightsInfo(("a", "b", "c"), preprocessing=from_timm(TIMM[3], "here"))
    folder = tmp_path / "timm"
    weights = Weights(params, model.config, name, "orbax", "float32", (), stated)
    write_weights(weights, folder, format="timm")
    config = json.loads((folder / "config.json").read_text())
    if released:
        theirs = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        data = timm.data.resolve_model_data_config(theirs)
        assert theirs.pretrained_cfg["label_names"] == ["a", "b", "c"]
    else:
        theirs = timm.models.focalnet.FocalNet(num_classes=3, **config["model_args"]).eval()
        theirs.load_state_dict(safetensors.torch.load_file(folder / "model.safetensors"))
        data = timm.data.resolve_data_config(pretrained_cfg=config["pretrained_cfg"])
        notes = write_weights(weights, tmp_path / "timm.safetensors", format="timm").notes
        (call,) = [note[note.index("timm.models") :] for note in notes if "timm.models" in note]
        by_note = eval(call, {"timm": timm}).eval()
        by_note.load_state_dict(safetensors.torch.load_file(tmp_path / "timm.safetensors"))
    assert (tuple(data["input_size"]), data["crop_mode"], data["mean"][0]) == ((3, 64, 64), "squash", 0.5)
    images = np.random.default_rng(0).normal(size=(1, 64, 64, 3)).astype(np.float32)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
        if not released:
            np.testing.assert_array_equal(by_note(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy(), expected)
    np.testing.assert_allclose(model(images), expected, rtol=0, atol=1e-5 * max(1, np.abs(expected).max()))
