"""UPerNet's files: read from mmsegmentation and transformers, and written so that both load them, with equal logits."""

import json

import jax
import numpy as np
import pytest
import torch
from transformers import AutoModelForSemanticSegmentation

from focalnet_jax import load_model
from focalnet_jax.convert.read_upernet import read_upernet
from focalnet_jax.convert.write_upernet import write_upernet
from focalnet_jax.model import FocalNetConfig
from parity.measure import relative
from parity.upernet import both_logits, build, pixels

pytestmark = pytest.mark.filterwarnings("ignore")  # mmsegmentation's advice about its losses

FLOAT32 = 1e-5  # float32 on both sides, summed in different orders, as in test_models.py
NAMES, PALETTE = ("wall", "sky", "tree"), [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
CONFIG = FocalNetConfig(embed_dim=8, depths=(1, 1, 2, 1), focal_levels=3, focal_windows=9, drop_path_rate=0.0)
HEADS = dict(channels=12, auxiliary_channels=10)
IMAGES = np.random.default_rng(0).standard_normal((2, 97, 130, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def theirs():
    """Mmsegmentation's model and its logits of `IMAGES`."""
    model = build(CONFIG, 3, **HEADS)
    with torch.no_grad():
        return model, both_logits(model, IMAGES)[0].numpy()


@pytest.fixture(scope="module")
def file(theirs, tmp_path_factory):
    path = tmp_path_factory.mktemp("files") / "theirs.pth"
    meta = {"dataset_meta": {"classes": NAMES, "palette": PALETTE}, "iter": 9}
    torch.save({"meta": meta, "message_hub": {"log": 1}, "state_dict": theirs[0].state_dict()}, path)
    return path


def logits_of(path):
    model = load_model(path)
    return jax.jit(lambda images: model(images))(IMAGES)


def test_a_file_of_mmsegmentation_gives_its_logits(theirs, file):
    assert relative(logits_of(file), theirs[1]) < FLOAT32
    assert read_upernet(file).info.classes == NAMES


def test_a_written_file_is_loaded_strictly_by_mmsegmentation(theirs, file, tmp_path):
    write_upernet(read_upernet(file), tmp_path / "ours.pth", format="mmseg")
    content = torch.load(tmp_path / "ours.pth", weights_only=True)
    other = build(CONFIG, 3, **HEADS, seed=1)
    other.load_state_dict(content["state_dict"], strict=True)
    with torch.no_grad():
        np.testing.assert_array_equal(both_logits(other, IMAGES)[0], theirs[1])
    assert content["meta"]["CLASSES"] == content["meta"]["dataset_meta"]["classes"] == NAMES
    assert content["meta"]["PALETTE"] == content["meta"]["dataset_meta"]["palette"] == PALETTE


def test_a_written_directory_is_loaded_by_transformers_with_equal_logits_and_read_again(theirs, file, tmp_path):
    write_upernet(read_upernet(file), tmp_path / "ours", format="huggingface")
    model, info = AutoModelForSemanticSegmentation.from_pretrained(
        tmp_path / "ours", trust_remote_code=True, output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    assert model.config.id2label == dict(enumerate(NAMES))
    with torch.no_grad():
        maps = model.eval().backbone(pixels(IMAGES)).feature_maps
        logits = model.decode_head(maps).permute(0, 2, 3, 1)
        assert model(pixels(IMAGES)).logits.shape == (2, 3, 97, 130)
    assert relative(logits, theirs[1]) < FLOAT32
    model.save_pretrained(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["model_type"] == "upernet"
    assert relative(logits_of(tmp_path / "saved"), theirs[1]) < FLOAT32
