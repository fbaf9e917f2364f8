"""A directory in timm's format states preprocessing, class names and what its model computes."""

import json
from dataclasses import replace

import pytest

from focalnet_jax.convert.info import WeightsInfo
from focalnet_jax.convert.timm import timm_options, write_timm_config
from focalnet_jax.convert.weights import read_weights
from focalnet_jax.convert.write import write_weights
from focalnet_jax.data.preprocessing import Normalization, Preprocessing
from focalnet_jax.errors import UserError
from focalnet_jax.inference import load_classifier
from focalnet_jax.model.variants import variant_config
from tests.convert.golden_files import GOLDEN, OPTIONS

HALF = Normalization((0.5,) * 3, (0.5,) * 3)


def of_timm(folder, **config):
    """Writes a directory in timm's format."""
    folder.mkdir()
    weights = read_weights(GOLDEN / "timm_lrf.safetensors", options=OPTIONS["timm_lrf"])
    write_weights(weights, folder / "model.safetensors", format="timm")
    stated = {"architecture": "focalnet_tiny_lrf", "num_classes": weights.config.num_classes}
    (folder / "config.json").write_text(json.dumps(stated | config))
    return folder


@pytest.mark.parametrize("nested", [True, False], ids=["nested", "flat"])
def test_a_timm_directory_states_preprocessing_and_class_names(nested, tmp_path):
    names = [f"n{index}" for index in range(5)]
    cfg = {"input_size": [3, 64, 64], "crop_pct": 0.9, "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "lanczos"}
    labels = {"label_names": names, "label_descriptions": {"n1": "rose, flower"}}
    folder = of_timm(tmp_path / "timm", **({"pretrained_cfg": cfg, **labels} if nested else cfg | labels))
    classifier = load_classifier(folder, options=OPTIONS["timm_lrf"])
    assert classifier.preprocessing == Preprocessing(
        (64, 64), crop_pct=0.9, interpolation="lanczos", normalization=HALF
    )
    assert classifier.preprocessing.target == (71, 71)
    assert classifier.labels == ("n0", "rose, flower", "n2", "n3", "n4")
    write_weights(read_weights(folder, options=OPTIONS["timm_lrf"]), tmp_path / "there", format="huggingface")
    stated = read_weights(tmp_path / "there", options=OPTIONS["timm_lrf"]).info
    assert (stated.classes, stated.follow().target, stated.follow().normalization) == (tuple(names), (71, 71), HALF)
    other = of_timm(tmp_path / "other", pretrained_cfg={"crop_mode": "corner"})
    with pytest.raises(UserError, match=r"config.json: crop_mode is 'corner'"):
        load_classifier(other, options=OPTIONS["timm_lrf"])
    for number, wrong in enumerate((["n0"] * 6, {"5": "beyond"}, {"0": 1}, "imagenet")):
        bad = of_timm(tmp_path / f"bad{number}", label_names=wrong)
        with pytest.raises(UserError, match="label_names"):
            read_weights(bad, options=OPTIONS["timm_lrf"])
    foreign = of_timm(tmp_path / "foreign", architecture="swin_tiny", pretrained_cfg=cfg)
    assert load_classifier(foreign, options=OPTIONS["timm_lrf"]).assumed


def test_a_timm_directory_states_what_its_model_computes(tmp_path):
    folder = of_timm(tmp_path / "model", model_args={"focal_levels": [3, 3]})
    assert not read_weights(folder).config.normalize_modulator  # without this key: timm's default
    for pool in ("max", "catavgmax", ""):
        with pytest.raises(UserError, match=f"global_pool={pool}; this package supports only avg"):
            read_weights(of_timm(tmp_path / f"pool{pool}", model_args={"global_pool": pool}))


@pytest.mark.parametrize("normalized", [True, False])
def test_a_timm_directory_of_a_variant_keeps_its_normalization_of_modulators(normalized, tmp_path):
    config = replace(variant_config("focalnet_large_fl4"), normalize_modulator=normalized)
    write_timm_config(tmp_path, config, "focalnet_large_fl4", WeightsInfo())
    assert timm_options(json.loads((tmp_path / "config.json").read_text()))["normalize_modulator"] is normalized


def test_a_refusal_survives_conversions(tmp_path):
    folder = of_timm(tmp_path / "timm", pretrained_cfg={"crop_mode": "corner"})
    weights = read_weights(folder, options=OPTIONS["timm_lrf"])
    names = {"timm": "a", "huggingface": "b", "orbax": "c", "microsoft": "d.safetensors"}
    for format, name in names.items():
        write_weights(weights, tmp_path / name, format=format)
        with pytest.raises(UserError, match="crop_mode is 'corner'"):
            load_classifier(tmp_path / name, options=OPTIONS["timm_lrf"])
