"""From a FocalNet inside a larger module, the classifier after it is read too."""

import numpy as np
import pytest

import focalnet_jax
from focalnet_jax.convert.load import load_into
from focalnet_jax.errors import UserError
from focalnet_jax.inference import load_classifier
from tests.commands import convert
from tests.convert.test_adapt import on_one_device
from tests.convert.test_layouts import PLAIN, TENSORS, holds, read, under
from tests.convert.torch_writer import save

BACKBONE = {name: value for name, value in TENSORS.items() if not name.startswith("head.")}
WEIGHT, BIAS = TENSORS["head.fc.weight"], TENSORS["head.fc.bias"]
OPTION = ["--option", "normalize_modulator=false"]


def classified(name, prefix="backbone."):
    return under(prefix, BACKBONE) | {f"{name}.weight": WEIGHT, f"{name}.bias": BIAS}


PLACES = {
    "mmpretrain": {"state_dict": classified("head.fc"), "meta": {"epoch": 3}, "optimizer": {"state": {}}},
    "timm_backbone": {"state_dict": classified("head.fc", "backbone.timm_model.")},
    "classifier": classified("classifier"),
    "fc": {"model": classified("fc", "encoder.")},
    "dropout": classified("classifier.1"),
    "sequential": {f"0.{name}": value for name, value in BACKBONE.items()} | {"2.weight": WEIGHT, "2.bias": BIAS},
    "two_dictionaries": {
        "backbone": BACKBONE,
        "classifier": {"weight": WEIGHT, "bias": BIAS},
        "optimizer": {"x": WEIGHT},
    },
    "inside": under("model.", BACKBONE) | {"model.head.fc.1.weight": WEIGHT, "model.head.fc.1.bias": BIAS},
    "counters": classified("head") | {"steps": np.array(3), "criterion.weight": np.ones(5, np.float32)},
}


@pytest.mark.parametrize("name", PLACES)
def test_a_classifier_behind_a_backbone_is_the_models(name, tmp_path):
    weights = read(save(PLACES[name], tmp_path / name))
    assert holds(weights)
    assert any("taken as the classifier, 5 classes" in decision for decision in weights.decisions)


def test_every_command_takes_the_classifier_behind_a_backbone(tmp_path):
    path = save(PLACES["mmpretrain"], tmp_path / "mmpretrain.pth")
    done = convert(path, tmp_path / "out.safetensors", "--to", "timm", *OPTION)
    assert done.returncode == 0, done.stderr
    assert "note      head.fc taken as the classifier, 5 classes".replace("head", "state_dict.head") in done.stdout
    assert holds(read(tmp_path / "out.safetensors"))
    with pytest.warns(UserWarning, match=r"state_dict\.head\.fc taken as the classifier"):
        model = focalnet_jax.load_model(path, **PLAIN)
    np.testing.assert_array_equal(model.head.kernel[...], WEIGHT.T)
    with pytest.warns(UserWarning, match=r"state_dict\.head\.fc taken as the classifier"):
        assert len(load_classifier(path, options=PLAIN).labels) == 5
    config = read(path).config
    loaded = load_into(str(path), config, on_one_device(config))
    np.testing.assert_array_equal(loaded.params["head"]["bias"], BIAS)
    assert "taken as the classifier" in loaded.source
    fresh = focalnet_jax.load_model(path, num_classes=7, head="drop", **PLAIN)
    assert fresh.head.kernel.shape == (16, 7)


def test_a_classifier_without_a_bias_has_zeros(tmp_path):
    weights = read(save(under("backbone.", BACKBONE) | {"head.weight": WEIGHT}, tmp_path / "file"))
    assert (weights.params["head"]["bias"] == 0).all()
    assert holds(weights, TENSORS | {"head.fc.bias": np.zeros(5, np.float32)})


def test_a_classifier_of_one_output_keeps_its_bias(tmp_path):
    held = under("backbone.", BACKBONE) | {"head.weight": WEIGHT[:1], "head.bias": BIAS[:1]}
    weights = read(save(held, tmp_path / "file"))
    assert holds(weights, TENSORS | {"head.fc.weight": WEIGHT[:1], "head.fc.bias": BIAS[:1]})


def test_the_norm_of_the_last_output_becomes_the_final_norm(tmp_path):
    renamed = {name.replace("norm.", "norm1.") if name.startswith("norm.") else name: v for name, v in BACKBONE.items()}
    held = under("backbone.", renamed) | {"head.fc.weight": WEIGHT, "head.fc.bias": BIAS}
    assert holds(read(save(held, tmp_path / "file")))


def test_unsupported_classifiers_are_left_out_with_a_warning(tmp_path):
    headless = {name: value for name, value in BACKBONE.items() if not name.startswith("norm.")}
    cases = {
        "neck": (classified("head.fc") | {"neck.fc.weight": WEIGHT}, r"head\.fc was left out: neck may come before it"),
        "norm": (classified("head.fc") | {"norm.weight": BIAS}, "norm may come before it"),
        "no_norm": (
            under("backbone.", headless) | {"fc.weight": WEIGHT, "fc.bias": BIAS},
            "the classifier fc was left out: the backbone has no final norm",
        ),
        "mlp": (
            under("net.", BACKBONE) | {"head.0.weight": WEIGHT, "head.2.weight": WEIGHT},
            "head was left out: it is not a linear layer",
        ),
        "before": (
            {f"1.{n}": v for n, v in BACKBONE.items()} | {"0.weight": WEIGHT, "2.weight": WEIGHT},
            "0 may come before it",
        ),
    }
    for name, (content, message) in cases.items():
        path = save(content, tmp_path / name)
        assert read(path).config.num_classes == 0
        with pytest.warns(UserWarning, match=message.replace("head\\.fc", "head")):
            focalnet_jax.load_model(path, **PLAIN)
    after = save(under("net.") | {"fc.weight": np.ones((2, 5), np.float32)}, tmp_path / "after")
    with pytest.warns(UserWarning, match="fc was left out: its input is the classifier's output"):
        assert focalnet_jax.load_model(after, **PLAIN).config.num_classes == 5


def test_of_two_classifiers_none_is_guessed(tmp_path):
    two = save(under("net.") | {"fc.weight": WEIGHT, "fc.bias": BIAS}, tmp_path / "two")
    with pytest.raises(
        UserError, match=r"2 classifiers for one FocalNet: fc \(5 classes\), net\.head\.fc \(5 classes\)"
    ):
        read(two)
    peers = save(classified("head") | {"fc.weight": WEIGHT}, tmp_path / "peers")
    with pytest.raises(UserError, match=r"2 classifiers for one FocalNet: head \(5 classes\), fc \(5 classes\)"):
        read(peers)
    for path in (two, peers):
        assert focalnet_jax.load_model(path, num_classes=3, head="drop", **PLAIN).config.num_classes == 3


def test_each_of_several_models_has_its_own_classifier(tmp_path):
    other = {name: value + 1 for name, value in TENSORS.items()}
    headless = {name: value for name, value in other.items() if not name.startswith("head.")}
    theirs = under("backbone.", headless) | {"head.weight": other["head.fc.weight"], "head.bias": other["head.fc.bias"]}
    pair = save(under("student.", classified("head")) | under("teacher.", theirs), tmp_path / "pair")
    assert holds(read(pair, which="student"))
    assert holds(read(pair, which="teacher"), other)
    averaged = save({"state_dict": classified("head.fc"), "state_dict_ema": other}, tmp_path / "ema")
    assert holds(read(averaged))
    assert holds(read(averaged, which="EMA"), other)
    inside = save(TENSORS | under("ema.", headless), tmp_path / "inside")  # the complete model contains the other
    assert read(inside, which="ema").config.num_classes == 0
