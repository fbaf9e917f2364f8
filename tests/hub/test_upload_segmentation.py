"""convert SRC hf://ORG/NAME for weights of segmentation: files, model card, and predictions by name."""

import json

import numpy as np
import pytest
from PIL import Image

from focalnet_jax.hub.download import fetch
from focalnet_jax.inference import load_predictor
from tests.commands import assert_one_line_mistake, metrics, run
from tests.convert.test_upernet_files import NAMES, PALETTE, file, golden, tensors
from tests.hub.handler import TOKEN
from tests.hub.test_upload import ADDRESS, card_of

__all__ = ["file", "golden", "tensors"]  # fixtures: a small UPerNet of mmsegmentation with three classes


@pytest.fixture
def writer(environment):
    return environment | {"HF_TOKEN": TOKEN}


@pytest.fixture
def picture(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 52, 3), np.uint8)
    Image.fromarray(pixels).resize((104, 80)).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


def upload(env, source, to, *flags):
    return run("-m", "focalnet_jax.convert", source, ADDRESS, "--to", to, "--upload", *flags, env=env)


def predicted(env, picture, checkpoint):
    done = run("-m", "focalnet_jax.predict", picture, "--checkpoint", checkpoint, "--json", env=env)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def test_a_directory_of_transformers_is_sent_with_its_code_and_predicts_by_name(hub, writer, file, picture):
    done = upload(writer, file, "huggingface")
    assert done.returncode == 0, done.stderr
    assert set(hub.repositories["tester/photos"].files()) == {
        ".gitattributes",
        "README.md",
        "config.json",
        "model.safetensors",
        "modeling_focalnet_upernet.py",
        "preprocessor_config.json",
    }
    card = card_of(done.stdout)
    assert "pipeline_tag: image-segmentation\n" in card
    assert 'AutoModelForSemanticSegmentation.from_pretrained("tester/photos", trust_remote_code=True)' in card
    assert "| class names | wall, sky, tree |" in card
    own, others = predicted(writer, picture, file), predicted(writer, picture, ADDRESS)
    assert own[0] == others[0]
    assert "does not specify preprocessing; using the default: resized to fit into 2048x512 pixels" in own[1]


def test_a_run_is_sent_with_the_size_of_its_images_and_its_results(hub, writer, segmented, picture, monkeypatch):
    done = upload(writer, segmented, "mmseg", "--license", "mit")
    assert done.returncode == 0, done.stderr
    assert set(hub.repositories["tester/photos"].files()) == {".gitattributes", "README.md", "model.safetensors"}
    card, miou = card_of(done.stdout), metrics(segmented)[-1]["eval/miou"]
    assert card.startswith("---\nlicense: mit\nlibrary_name: mmsegmentation\npipeline_tag: image-segmentation\n")
    assert f'    - type: mean_iou\n      name: "mIoU"\n      value: {miou:.4g}\n' in card
    assert f"| mIoU | {miou:.4g} % |" in card
    how = "resized to fit into 64x64 pixels, bilinear without antialiasing, ImageNet's mean and std"
    assert f"| preprocessing | {how} |" in card
    assert "AutoModel" not in card
    own, others = predicted(writer, picture, segmented), predicted(writer, picture, ADDRESS)
    assert own == others == (own[0], "")  # also no note about assumed sizes
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    fetch.cache_clear()
    assert load_predictor(ADDRESS).labels == load_predictor(segmented).labels


def test_names_and_colours_are_kept(hub, writer, file, monkeypatch):
    assert upload(writer, file, "mmseg").returncode == 0
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    fetch.cache_clear()
    segmenter = load_predictor(ADDRESS)
    assert segmenter.labels == NAMES
    assert segmenter.colours.tolist() == PALETTE


def test_a_layout_that_cannot_hold_the_model_is_refused_before_anything_is_sent(hub, writer, segmented):
    assert_one_line_mistake(upload(writer, segmented, "timm"), "--to timm writes a classifier")
    assert_one_line_mistake(upload(writer, segmented, "huggingface"), "transformers' UperNet has 4 stages")
    assert_one_line_mistake(upload(writer, segmented, "orbax"), "or --to mmseg for weights of segmentation")
    assert not hub.repositories
