"""Preprocessing stored with weights is used by all commands, and kept in conversions."""

import json
from dataclasses import replace

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image
from sklearn.datasets import load_sample_image

import focalnet_jax
from focalnet_jax import predict
from focalnet_jax.checkpoint.weights import save_params
from focalnet_jax.convert.checkpoint_metadata import checkpoint_info
from focalnet_jax.convert.info import WeightsInfo
from focalnet_jax.convert.weights import read_weights
from focalnet_jax.convert.write import write_weights
from focalnet_jax.data.normalization import normalize
from focalnet_jax.data.preprocessing import IMAGENET, USUAL, Normalization, Preprocessing, from_config
from focalnet_jax.data.transforms import eval_transform
from focalnet_jax.errors import UserError
from focalnet_jax.inference import load_classifier
from focalnet_jax.model.variants import model_metadata
from focalnet_jax.programs.config_files import load_config, named_keys
from focalnet_jax.programs.show import draw_sheet, shown_batch
from focalnet_jax.tasks.classification.preprocessing import note_difference, weights_preprocessing
from focalnet_jax.training.evaluate_checkpoint import evaluate_checkpoint
from focalnet_jax.training.run import set_up
from focalnet_jax.transfer.extract import extract_features
from focalnet_jax.visualize.drawing import fit
from tests.commands import SMALL, run
from tests.convert.golden_files import GOLDEN, OPTIONS, in_a_directory

HALF = Normalization((0.5,) * 3, (0.5,) * 3)
VIT = {
    "image_processor_type": "ViTImageProcessor",
    "size": {"height": 32, "width": 64},
    "resample": 2,
    "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3,
}
STRETCHED = Preprocessing((32, 64), "stretch", (32, 64), None, "bilinear", HALF, rounding="down")
SRF = OPTIONS["huggingface_srf"]


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photo") / "china.png"
    Image.fromarray(load_sample_image("china.jpg")).save(path)
    return path


def with_processor(folder, name="preprocessor_config.json", **stated):
    in_a_directory(folder)
    (folder / "preprocessor_config.json").unlink()
    (folder / name).write_text(json.dumps(VIT | stated if name[:4] == "prep" else {"image_processor": VIT | stated}))
    return folder


@pytest.mark.parametrize("name", ["preprocessor_config.json", "processor_config.json"])
def test_a_directorys_processor_decides_what_the_model_is_given(name, photo, tmp_path):
    folder = with_processor(tmp_path / "model", name)
    classifier, pixels = load_classifier(folder), np.asarray(Image.open(photo))
    assert classifier.preprocessing == STRETCHED
    expected = classifier.model(normalize(eval_transform(STRETCHED)(pixels)[None], HALF))
    np.testing.assert_allclose(classifier.logits([pixels]), expected, rtol=1e-5, atol=1e-6)
    fitted = fit(pixels, classifier.preprocessing, 8, photo)  # the image in figures
    assert fitted.shape == (32, 64, 3)
    assert load_classifier(folder, image_size=(64, 64)).preprocessing.normalization == HALF


def test_predict_says_when_weights_state_nothing_and_refuses_what_it_cannot_follow(photo, tmp_path, capsys):
    arguments = [str(photo), "--json", "--checkpoint"]
    bare = tmp_path / "bare.safetensors"
    safetensors.numpy.save_file(safetensors.numpy.load_file(GOLDEN / "huggingface_srf.safetensors"), bare)
    flags = [part for key, value in SRF.items() for part in ("--option", f"{key}={str(value).lower()}")]
    assert predict.main([*arguments, str(bare), *flags, "--image-size", "32x48"]) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 1
    assert len(err.splitlines()) == 1
    assert "does not specify preprocessing" in err
    assert "resized to cover 36x54, centre crop 32x48, bicubic, ImageNet's mean and std" in err
    for key, value in (("do_pad", True), ("image_std", [0.5, 0, 0.5]), ("resample", 7)):
        folder = with_processor(tmp_path / key, **{key: value})
        with pytest.raises(UserError, match=f"preprocessor_config.json: {key}"):
            predict.main([*arguments, str(folder)])
        assert focalnet_jax.load_model(folder).config.num_classes == 5  # the weights can still be used
    for size in ("0x32", "32x", "32x32x3", "big", "-4"):
        with pytest.raises(UserError, match="--image-size"):
            predict.main([*arguments, str(bare), f"--image-size={size}"])


def test_conversions_carry_preprocessing_and_class_names_from_format_to_format(tmp_path):
    folder = with_processor(tmp_path / "model")
    write_weights(read_weights(folder), tmp_path / "checkpoint", format="orbax")
    write_weights(read_weights(tmp_path / "checkpoint"), tmp_path / "again", format="huggingface")
    assert json.loads((tmp_path / "again" / "preprocessor_config.json").read_text()) == VIT  # copied unchanged
    write_weights(read_weights(folder), tmp_path / "timm.safetensors", format="timm")
    write_weights(read_weights(tmp_path / "timm.safetensors", options=SRF), tmp_path / "back", format="huggingface")
    assert read_weights(tmp_path / "back").info.follow() == STRETCHED
    write_weights(read_weights(folder), tmp_path / "local", format="timm")
    local = read_weights(tmp_path / "local")  # with all options that shapes do not determine
    assert (local.config, local.info.follow()) == (
        read_weights(folder).config,
        replace(STRETCHED, crop_pct=1.0, resized=None, rounding="nearest"),
    )
    report = write_weights(read_weights(folder), tmp_path / "wide", format="huggingface", image_size=(64, 32))
    assert read_weights(tmp_path / "wide").info.follow() == STRETCHED.at((64, 32))
    assert not any("preprocessor" in note for note in report.notes)
    broken = with_processor(tmp_path / "broken", do_pad=True)
    write_weights(read_weights(broken), tmp_path / "carried", format="orbax")
    with pytest.raises(UserError, match="do_pad is True"):  # the same error
        load_classifier(tmp_path / "carried")


def test_checkpoints_from_before_preprocessing_was_stored_mean_what_they_did(tmp_path):
    weights = read_weights(GOLDEN / "huggingface_srf.safetensors", options=SRF)
    old = {"classes": None, "exact": False, "image_size": 384, "preprocessor": None}
    save_params(tmp_path / "old", weights.params, {"model": model_metadata(None, weights.config), "stated": old})
    assert load_classifier(tmp_path / "old").preprocessing == USUAL.at((384, 384))
    config = load_config("configs/quickstart.py", SMALL[1:]).to_dict()
    of_run = checkpoint_info({"config": config, "classes": list("0123456789")})
    for key in ("eval_resize_mode", "interpolation", "mean", "std"):
        del config["data"][key]
    assert checkpoint_info({"config": config, "classes": list("0123456789")}) == of_run
    assert of_run.follow() == Preprocessing((16, 16), resized=(16, 16), crop_pct=None)


def test_weights_that_are_measured_or_trained_from_keep_their_preprocessing_or_say_otherwise(
    finished, tmp_path, capsys
):
    workdir, _ = finished
    config = load_config("configs/quickstart.py", [*SMALL[1:]])
    own = evaluate_checkpoint(config, str(workdir))
    assert "images get the preprocessing" not in capsys.readouterr().out
    # the run's own way counts, whatever the config says, unless its keys are named
    others = ["--config.data.image_size=24", "--config.data.mean=(0.5,0.5,0.5)", "--config.data.eval_resize=24"]
    elsewhere = load_config("configs/quickstart.py", [*SMALL[1:], *others])
    assert evaluate_checkpoint(elsewhere, str(workdir))["loss"] == own["loss"]
    out = capsys.readouterr().out
    assert "images get the preprocessing stored with the weights: shorter side to 16, centre crop 16x16" in out
    assert "the config has shorter side to 24, centre crop 24x24, bicubic, mean 0.5" in out
    changed = evaluate_checkpoint(elsewhere, str(workdir), named=named_keys(others[1:2]))
    assert changed["loss"] != own["loss"]
    assert "stored with the weights except for data.mean: shorter side to 16" in capsys.readouterr().out
    train, _ = extract_features(elsewhere, str(workdir))
    same, _ = extract_features(config, str(workdir))
    np.testing.assert_array_equal(train.values, same.values)
    capsys.readouterr()
    from_there = [*SMALL[1:], f"--config.init_from={workdir}", "--config.data.interpolation=bilinear"]
    set_up(load_config("configs/quickstart.py", from_there), tmp_path / "run")
    assert "has another preprocessing, shorter side to 16, centre crop 16x16, bicubic" in capsys.readouterr().out


def test_pictures_that_are_not_square_are_trained_evaluated_and_predicted(photo, tmp_path, capsys):
    small = [argument for argument in SMALL if "image_size" not in argument and "eval_resize" not in argument]
    wide = [
        "--config.data.image_size=(16,24)",
        "--config.data.eval_resize=none",
        "--config.augment.erase=0.5",
        "--config.augment.cutmix=1.0",
    ]
    wide += ["--config.total_steps=2", "--config.data.std=(0.3,0.3,0.3)", "--config.augment.mix_group=2"]
    workdir = tmp_path / "run"
    done = run("train.py", *small, *wide, "--workdir", workdir)
    assert done.returncode == 0, done.stderr
    assert "at 16x24 px" in done.stdout
    how = load_classifier(workdir).preprocessing
    assert (how.size, how.target, how.normalization.std) == ((16, 24), (18, 27), (0.3,) * 3)
    assert how.normalization.mean == IMAGENET.mean
    assert predict.main([str(photo), "--json", "--checkpoint", str(workdir)]) == 0
    assert capsys.readouterr().err == ""
    shown, _ = shown_batch(load_config("configs/quickstart.py", [*small[1:], *wide]), 0, most=2)
    assert [image.shape for image, _ in shown] == [(16, 24, 3)] * 2
    sheet = draw_sheet(shown[:1])
    assert sheet.width > sheet.height
    report = write_weights(read_weights(workdir), tmp_path / "hf", format="huggingface")
    assert any("transformers has no processor" in note for note in report.notes)
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["image_size"] == [16, 24]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("image_size", "(16,)", "1 to 16384 pixels, or (height, width)"),
        ("image_size", "(16,0)", "1 to 16384 pixels"),
        ("image_size", "wide", "1 to 16384 pixels"),
        ("image_size", "true", "1 to 16384 pixels"),
        ("image_size", "22.5", "1 to 16384 pixels"),
        ("eval_resize_mode", "squash", "shorter, stretch, longest, none"),
        ("interpolation", "area", "bicubic, bilinear"),
        ("mean", "(0.5,0.5)", "three numbers"),
        ("std", "(0.5,0.5,0.0)", "three positive numbers"),
        ("std", "(1e999,1,1)", "three positive numbers"),
        ("std", "0.5", "three positive numbers"),
    ],
)
def test_a_key_that_makes_no_sense_is_one_line(key, value, message):
    with pytest.raises(UserError, match=f"data.{key}=") as error:
        load_config("configs/quickstart.py", [f"--config.data.{key}={value}"])
    assert message in str(error.value)


def test_a_switch_that_is_null_is_off(tmp_path):
    folder = with_processor(tmp_path / "model", do_normalize=None, do_center_crop=None, crop_size=None)
    how = read_weights(folder).info.follow()
    assert (how.size, how.mode, how.normalization.mean) == ((32, 64), "stretch", (0.0, 0.0, 0.0))
    with pytest.raises(UserError, match="do_resize and do_center_crop are false"):
        load_classifier(with_processor(tmp_path / "sizes", do_resize=None))


def test_of_weights_that_state_a_normalization_alone_the_rest_is_the_configs(capsys):
    stated = WeightsInfo(preprocessing=replace(USUAL, normalization=HALF), normalization_only=True)
    config = load_config("configs/quickstart.py", SMALL[1:])
    own = from_config(config.data)
    assert weights_preprocessing(config, stated, ()) == replace(own, normalization=HALF)
    assert (
        "stored with the weights: shorter side to 16, centre crop 16x16, bicubic, mean 0.5" in capsys.readouterr().out
    )
    assert weights_preprocessing(config, stated, ["data.mean", "data.std"]) == own
    note_difference(config, stated, "model.pth")
    assert "model.pth has another preprocessing, shorter side to 16, centre crop 16x16" in capsys.readouterr().out
    half = load_config(
        "configs/quickstart.py", [*SMALL[1:], "--config.data.mean=(0.5,0.5,0.5)", "--config.data.std=(0.5,0.5,0.5)"]
    )
    note_difference(half, stated, "model.pth")
    assert not capsys.readouterr().out


@pytest.mark.parametrize("format", ["huggingface", "timm"])
def test_what_a_librarys_files_cannot_state_is_stored_in_the_weights(format, tmp_path):
    wide = Preprocessing((32, 48), resized=(36, 54), crop_pct=None, interpolation="lanczos", normalization=HALF)
    how = replace(wide, size=(32, 32), resized=(40, 40), mode="longest") if format == "timm" else wide
    weights = read_weights(GOLDEN / "huggingface_srf.safetensors", options=SRF)
    held = replace(weights, info=replace(weights.info, preprocessing=replace(how, fill=(9, 9, 9))))
    report = write_weights(held, tmp_path / "there", format=format)
    assert any(note.startswith("no preprocess") for note in report.notes)
    back = read_weights(tmp_path / "there", options=SRF)
    assert back.info.follow() == replace(how, fill=(9, 9, 9))
    if format == "huggingface":  # a different size in the config is used, as without preprocessing
        config = tmp_path / "there" / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"image_size": [64, 96]}))
        assert read_weights(tmp_path / "there").info.follow().size == (64, 96)
        assert read_weights(tmp_path / "there").info.follow().normalization == HALF
