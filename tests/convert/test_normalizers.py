"""A normalization layer before a FocalNet in a file is the preprocessing of the weights."""

import dataclasses
import json

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image
from sklearn.datasets import load_sample_image

from focalnet_jax.convert.info import WeightsInfo
from focalnet_jax.convert.weights import read_weights
from focalnet_jax.convert.write import write_weights
from focalnet_jax.data.preprocessing import IMAGENET, USUAL, Normalization
from focalnet_jax.errors import UserError
from focalnet_jax.inference import load_classifier
from tests.commands import run
from tests.convert.golden_files import GOLDEN, in_a_directory
from tests.convert.test_layouts import PLAIN, TENSORS, holds, read, under
from tests.convert.torch_writer import save

OPTION = ["--option", "normalize_modulator=false"]
HALF = Normalization((0.5,) * 3, (0.25,) * 3)


def layer(mean, std, shape=(3,)):
    return np.reshape(np.float32(mean), shape), np.reshape(np.float32(std), shape)


def normalized(place, mean, std, prefix="1.", shape=(3,), names=("mean", "std")):
    return under(prefix) | {f"{place}{name}": value for name, value in zip(names, layer(mean, std, shape), strict=True)}


IN_LEVELS = [255 * value for value in IMAGENET.mean], [255 * value for value in IMAGENET.std]
LAYERS = {
    "sequential": (normalized("0.", [0.5] * 3, [0.25] * 3, shape=(1, 3, 1, 1)), HALF),
    "robustbench": (
        normalized("module.normalizer.", [0.5] * 3, [0.25] * 3, "module.model.", (3, 1, 1), ("new_mean", "new_std")),
        HALF,
    ),
    "mmengine": (
        {"state_dict": normalized("data_preprocessor.", *IN_LEVELS, "backbone.", (3, 1, 1)), "meta": {}},
        IMAGENET,
    ),
    "mmengine_identity": (
        normalized("data_preprocessor.", [0] * 3, [1] * 3, "backbone."),
        Normalization((0.0,) * 3, (1 / 255,) * 3),
    ),
    "levels": (normalized("normalize.", [127.5] * 3, [127.5] * 3, "model."), Normalization((0.5,) * 3, (0.5,) * 3)),
    "scaled": (normalized("0.", [0] * 3, [255] * 3), Normalization((0.0,) * 3, (1.0,) * 3)),
    "buffers": (normalized("", IMAGENET.mean, IMAGENET.std, "net."), IMAGENET),
    "own": (TENSORS | dict(zip(("pixel_mean", "pixel_std"), layer([0.5] * 3, [0.25] * 3), strict=True)), HALF),
    "one_number": (under("1.") | {"0.mu": np.float32([0.5]), "0.sigma": np.float32([0.25])}, HALF),
    "twice": (
        normalized("normalizer.", [0.5] * 3, [0.25] * 3, "model.")
        | dict(
            zip(
                ("attacker.normalize.new_mean", "attacker.normalize.new_std"), layer([0.5] * 3, [0.25] * 3), strict=True
            )
        ),
        HALF,
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_that_normalizes_is_the_preprocessing_of_the_weights(name, tmp_path):
    content, expected = LAYERS[name]
    path = save(content, tmp_path / name)
    weights = read(path)
    assert holds(weights)
    found = weights.info.follow().normalization
    np.testing.assert_allclose([found.mean, found.std], [expected.mean, expected.std], rtol=1e-7)  # float32 in the file
    assert (expected == IMAGENET) == (found == IMAGENET)
    (note,) = [each for each in weights.decisions if "the file normalizes images with" in each]
    assert ": mean " in note or ": ImageNet" in note
    with pytest.warns(UserWarning, match="the file normalizes images with"):
        classifier = load_classifier(path, options=PLAIN)
    assert (classifier.preprocessing, classifier.assumed) == (
        dataclasses.replace(USUAL, normalization=found),
        "size, resize and crop",
    )


UNCLEAR = {
    "blue_first": (normalized("0.", IMAGENET.mean[::-1], IMAGENET.std[::-1]), "blue, green, red"),
    "caffe": (normalized("data_preprocessor.", [103.53, 116.28, 123.675], [1] * 3, "backbone."), "blue, green, red"),
    "scale": (normalized("0.", [0.5] * 3, [58] * 3), r"do not fit pixel values in \[0, 1\] or in \[0, 255\]"),
    "between": (normalized("0.", [2] * 3, [4] * 3), r"do not fit pixel values in \[0, 1\] or in \[0, 255\]"),
    "preprocessor": (
        normalized("data_preprocessor.", IMAGENET.mean, IMAGENET.std, "backbone."),
        r"pixel values in \[0, 255\]",
    ),
    "large": (normalized("0.", [300] * 3, [1] * 3), r"do not fit pixel values in \[0, 1\] or in \[0, 255\]"),
    "nan": (normalized("0.", [np.nan] * 3, [1] * 3), "finite numbers"),
    "zero": (normalized("0.", [0.5] * 3, [0] * 3), "positive numbers"),
    "half": (under("1.") | {"0.mean": np.zeros(3, np.float32)}, "expected one mean and one std"),
    "batch_norm": (
        under("1.") | {f"0.{part}": np.ones(3, np.float32) for part in ("running_mean", "running_var", "weight")},
        r"0\.running_mean may normalize images",
    ),
    "two": (
        normalized("0.", [0.5] * 3, [0.25] * 3)
        | dict(zip(("normalize.mean", "normalize.std"), layer([0.1] * 3, [0.2] * 3), strict=True)),
        "specify different normalizations",
    ),
}


@pytest.mark.parametrize("name", UNCLEAR)
def test_a_normalization_that_is_not_clear_is_refused_where_pictures_are_prepared(name, tmp_path):
    content, message = UNCLEAR[name]
    weights = read(save(content, tmp_path / name))
    assert holds(weights)  # the weights can still be used
    with pytest.raises(UserError, match=message):
        weights.info.follow()
    with pytest.warns(UserWarning, match=message), pytest.raises(UserError, match=message):
        load_classifier(tmp_path / name, options=PLAIN)
    # and where they go
    write_weights(weights, tmp_path / "out.safetensors", format="timm")
    write_weights(weights, tmp_path / "checkpoint", format="orbax")
    for format in ("timm", "huggingface"):
        report = write_weights(weights, tmp_path / format, format=format)
        assert any(note.startswith("no preprocessor") or note.startswith("no preprocessing") for note in report.notes)
        assert not (tmp_path / format / "preprocessor_config.json").exists()
    for there in ("out.safetensors", "checkpoint", "timm", "huggingface"):
        with pytest.raises(UserError, match=message):
            read_weights(tmp_path / there, options=PLAIN).info.follow()


def test_conversions_carry_the_normalization_of_a_layer(tmp_path):
    weights = read(save(LAYERS["sequential"][0], tmp_path / "source"))
    for format, name in (("timm", "a.safetensors"), ("orbax", "b"), ("huggingface", "c"), ("timm", "d")):
        write_weights(weights, tmp_path / name, format=format)
        again = read_weights(tmp_path / name, options=PLAIN).info
        assert again.follow().normalization == HALF
        assert again.normalization_only == (format == "orbax" or name.endswith(".safetensors"))
    assert json.loads((tmp_path / "c" / "preprocessor_config.json").read_text())["image_std"] == [0.25] * 3
    report = write_weights(weights, tmp_path / "e", format="huggingface", image_size=(48, 48))
    assert not any(note.startswith("no preprocessor") for note in report.notes)
    assert read_weights(tmp_path / "e").info.follow().size == (48, 48)


def test_files_beside_weights_and_a_layer_in_them_must_agree(tmp_path):
    tensors = safetensors.numpy.load_file(GOLDEN / "huggingface_srf.safetensors")
    mean, std = layer([0.5] * 3, [0.25] * 3)
    inside = {f"1.{name}": value for name, value in tensors.items()} | {"0.mean": mean, "0.std": std}
    beside = {"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}}
    for name, stated in (
        ("other", {"image_mean": [0.4] * 3, "image_std": [0.25] * 3}),
        ("same", {"image_mean": [0.5] * 3, "image_std": [0.25] * 3}),
        ("none", {"do_normalize": False}),
    ):
        folder = in_a_directory(tmp_path / name)
        safetensors.numpy.save_file(inside, folder / "model.safetensors")
        (folder / "preprocessor_config.json").write_text(json.dumps(beside | stated))
        weights = read_weights(folder)
        if name == "other":
            with pytest.raises(UserError, match="the model's input is ambiguous"):
                weights.info.follow()
        else:
            assert weights.info.follow().normalization == HALF
            assert weights.info.follow().size == (32, 32)
            assert any("the file normalizes images with 0.mean and 0.std" in note for note in weights.notes)
    (tmp_path / "none" / "preprocessor_config.json").unlink()  # a size alone
    stated = read_weights(tmp_path / "none").info
    assert (stated.follow().normalization, stated.follow().size, stated.normalization_only) == (HALF, (224, 224), False)
    assert stated != WeightsInfo()


def test_predict_says_in_lines_of_their_own_what_a_layer_states_and_what_nothing_does(tmp_path):
    path = save(LAYERS["sequential"][0], tmp_path / "model.pth")
    picture = tmp_path / "photo.png"
    Image.fromarray(load_sample_image("china.jpg")).save(picture)
    done = run("-m", "focalnet_jax.predict", picture, "--checkpoint", path, "--image-size", 32, *OPTION)
    assert done.returncode == 0, done.stderr
    layers, rest = done.stderr.splitlines()
    assert layers == (f"warning: {path}: the file normalizes images with 0.mean and 0.std: mean 0.5, std 0.25")
    assert rest.startswith(f"note: {path} does not specify size, resize and crop; using the default: shorter side")
    assert rest.endswith("mean 0.5, std 0.25")
