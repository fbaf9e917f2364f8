"""create_model(pretrained=...): released weights by the name of a variant."""

import json
import warnings
from importlib import import_module

import jax
import numpy as np
import pytest
from flax import nnx

import focalnet_jax
from focalnet_jax.convert.weights import read_weights
from focalnet_jax.convert.write import write_weights
from focalnet_jax.errors import UserError
from focalnet_jax.model.released import RELEASED, find_released, license_of
from focalnet_jax.model.variants import VARIANTS
from focalnet_jax.parameters import named_leaves
from tests.convert.golden_files import GOLDEN, OPTIONS

NAME = "focalnet_large_fl4"
IMAGES = np.ones((1, 32, 32, 3), np.float32)


@pytest.fixture
def released(hub, tmp_path, monkeypatch):
    """A small model in the place of a variant, with its weights in timm's repository."""
    golden = read_weights(GOLDEN / "timm_fl4.safetensors", options=OPTIONS["timm_fl4"])
    small = {
        key: getattr(golden.config, key)
        for key in ("embed_dim", "depths", "focal_levels", "focal_windows", "use_conv_embed", "use_postln")
    }
    small |= dict(use_layerscale=golden.config.use_layerscale, normalize_modulator=True)
    monkeypatch.setitem(VARIANTS, NAME, small)
    write_weights(golden, tmp_path / "model", format="timm")
    files = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    stated = json.loads(files["config.json"])
    del stated["model_args"]  # timm states none for its own variants
    files["config.json"] = json.dumps(stated).encode()
    hub.add(f"timm/{NAME}.ms_in22k", files)
    return golden


def logits(model):
    return nnx.jit(lambda model: model(IMAGES))(model)


def leaves(model):
    return named_leaves(nnx.to_pure_dict(nnx.state(model, nnx.Param)))


@pytest.mark.parametrize("name", [NAME, f"{NAME}.ms_in22k"])
def test_a_variant_gets_its_released_weights_and_their_classifier(released, name):
    model = focalnet_jax.create_model(name, pretrained=True)
    expected = named_leaves(released.params)
    assert model.config.num_classes == released.config.num_classes
    assert all(np.array_equal(value, expected[key]) for key, value in leaves(model).items())


def test_the_variant_is_that_of_the_authors(released):
    assert focalnet_jax.create_model(NAME, pretrained=True).config.normalize_modulator
    assert not focalnet_jax.create_model(NAME, pretrained=True, normalize_modulator=False).config.normalize_modulator


def test_another_number_of_classes_makes_a_new_classifier_and_says_so(released):
    with pytest.warns(
        UserWarning, match=rf"hf://timm/{NAME}.ms_in22k has 5 classes; the classifier for 3 classes is newly"
    ):
        models = [focalnet_jax.create_model(NAME, pretrained=True, num_classes=3, rngs=seed) for seed in (0, 0, 1)]
    assert logits(models[0]).shape == (1, 3)
    kernels = [np.asarray(model.head.kernel[...]) for model in models]
    assert np.array_equal(kernels[0], kernels[1])
    assert not np.array_equal(kernels[0], kernels[2])
    key, streams = jax.random.key(3), nnx.Rngs(params=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for rngs in (key, streams):
            assert logits(focalnet_jax.create_model(NAME, pretrained=True, num_classes=3, rngs=rngs)).shape == (1, 3)
        with pytest.raises(UserError, match=r"rngs is 'x'; expected nnx\.Rngs, a seed or a key"):
            focalnet_jax.create_model(NAME, pretrained=True, num_classes=3, rngs="x")


def test_no_classifier_and_the_same_number_of_classes_are_no_news(released):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert focalnet_jax.create_model(NAME, pretrained=True, num_classes=0).head is None
        assert logits(focalnet_jax.create_model(NAME, pretrained=True, num_classes=5)).shape == (1, 5)


def test_weights_of_your_own_and_options_of_the_model(released, hub, tmp_path):
    path = tmp_path / "own.safetensors"
    write_weights(released, path, format="timm")
    for source in (path, str(path), f"hf://timm/{NAME}.ms_in22k"):
        model = focalnet_jax.create_model(NAME, pretrained=source, normalize_modulator=True, dtype="bfloat16")
        assert np.array_equal(leaves(model)["norm/scale"], named_leaves(released.params)["norm/scale"])
        assert np.dtype(model.dtype).name == "bfloat16"
    wider = focalnet_jax.create_model(NAME, pretrained=path, normalize_modulator=True, focal_windows=5)
    assert wider.config.kernel_sizes(0)[0] == 5
    with pytest.raises(UserError, match="these are not the weights of focalnet_tiny_srf"):
        focalnet_jax.create_model("focalnet_tiny_srf", pretrained=path)
    keys = ("embed_dim", "depths", "focal_levels", "focal_windows", "use_conv_embed", "use_postln", "use_layerscale")
    small = {key: getattr(released.config, key) for key in (*keys, "normalize_modulator")}
    model = focalnet_jax.create_model("focalnet_tiny_srf", pretrained=path, **small)
    assert model.config.dims == released.config.dims
    write_weights(released, tmp_path / "checkpoint", format="orbax")
    model = focalnet_jax.create_model("focalnet_tiny_srf", pretrained=tmp_path / "checkpoint", **small)
    assert model.config.dims == released.config.dims
    with pytest.raises(UserError, match="not focalnet_tiny_srf"):
        focalnet_jax.create_model("focalnet_tiny_srf", pretrained=tmp_path / "checkpoint")
    with pytest.raises(UserError, match="these are not the weights of focalnet_tiny_srf: embed_dim is"):
        focalnet_jax.create_model("focalnet_tiny_srf", pretrained=path, **small | {"embed_dim": 3 * small["embed_dim"]})


def test_mistakes_are_found_before_anything_is_downloaded(hub):
    for arguments, message in (
        (dict(name="focalnet_tiny_iso"), "the weights of focalnet_tiny_iso are not on the Hugging Face Hub: download"),
        (dict(name="focalnet_tiny_srf.ms_in22k"), "focalnet_tiny_srf.ms_in22k has no released weights; known: "),
        (dict(name="focalnet_tiny"), "unknown model 'focalnet_tiny'"),
        (dict(name="focalnet_tiny_srf", focal_level=3), "unknown model option 'focal_level'"),
        (dict(name="focalnet_tiny_srf", num_classes="5"), "num_classes is '5'; expected an integer"),
        (dict(name="focalnet_tiny_srf", pretrained=1), "pretrained is 1; expected True, False, or the path or address"),
        (dict(name="focalnet_tiny_srf", pretrained="ms_in1k"),
         "there is no such file. Did you mean 'hf://timm/focalnet_tiny_srf.ms_in1k'?"),
        (dict(name="focalnet_tiny_srf", pretrained="me/own"), "there is no such file. Did you mean 'hf://me/own'?"),
    ):  # fmt: skip
        with pytest.raises(UserError) as error:
            focalnet_jax.create_model(**{"pretrained": True} | arguments)
        assert message in str(error.value)
    assert not hub.requests


def test_without_pretrained_the_model_is_fresh(hub):
    small = dict(embed_dim=8, depths=(1, 1))
    model = focalnet_jax.create_model("focalnet_tiny_srf.ms_in1k", rngs=1, **small)
    fresh = import_module("focalnet_jax.model").create_model("focalnet_tiny_srf", rngs=1, **small)
    assert all(np.array_equal(value, leaves(fresh)[key]) for key, value in leaves(model).items())
    assert not hub.requests


def test_the_table_holds_each_variant_that_is_on_the_hub():
    names = focalnet_jax.list_models(pretrained=True)
    assert [find_released(name).name for name in names] == names
    assert {each.variant for each in RELEASED} == {name for name in VARIANTS if not name.endswith("_iso")}
    assert focalnet_jax.list_models() == list(VARIANTS)
    assert license_of("hf://timm/focalnet_tiny_srf.ms_in1k") == license_of("hf://microsoft/focalnet-tiny") == "mit"
    assert license_of("hf://me/focalnet-tiny") is None
