"""Files of UPerNet in every format are read with class names, colours and averages, and written back unchanged."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from focalnet_jax import load_model
from focalnet_jax.convert.__main__ import main
from focalnet_jax.convert.load import load_into
from focalnet_jax.convert.read_upernet import read_upernet
from focalnet_jax.convert.upernet import Heads, all_variables
from focalnet_jax.convert.weights import read_weights
from focalnet_jax.convert.weights_task import weights_task
from focalnet_jax.errors import UserError
from focalnet_jax.parameters import named_leaves
from tests.convert.golden_files import GOLDEN
from tests.convert.torch_writer import save

NAMES, PALETTE = ("wall", "sky", "tree"), [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
OPTIONS = dict(use_postln=False, normalize_modulator=False)


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "upernet.npz") as file:
        return {name: file[name] for name in file.files}


@pytest.fixture(scope="module")
def tensors(golden):
    """Mmsegmentation's state dict."""
    weights = {name.removeprefix("weights/"): array for name, array in golden.items() if name.startswith("weights/")}
    return {name: array.astype(np.int64 if name.endswith("tracked") else np.float32) for name, array in weights.items()}


@pytest.fixture(scope="module")
def file(tensors, tmp_path_factory):
    """A checkpoint of mmsegmentation 0.x."""
    folder = tmp_path_factory.mktemp("mmseg")
    return save({"meta": {"CLASSES": NAMES, "PALETTE": PALETTE}, "state_dict": tensors}, folder / "old.pth")


def values(path, **options):
    return named_leaves(all_variables(read_upernet(path, **options)))


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name], err_msg=name)


def test_a_loaded_file_computes_mmsegmentations_logits(file, golden):
    model = load_model(file)
    logits = jax.jit(lambda images: model(images))(golden["images"].astype(np.float32))
    # float32 on both sides, summed in different orders
    assert np.linalg.norm(logits - golden["logits"]) / np.linalg.norm(golden["logits"]) < 1e-5


def test_windows_levels_heads_classes_and_colours_are_recognised(file):
    weights = read_upernet(file)
    assert (weights.config.focal_windows, weights.config.focal_levels) == (9, 2)
    assert (weights.config.num_classes, weights.config.use_postln) == (3, False)
    assert weights.heads == Heads(6, (1, 2, 3, 6), 5)
    assert weights.info.classes == NAMES
    assert weights.info.palette == tuple(map(tuple, PALETTE))


def test_every_format_and_back_is_exact(file, tmp_path):
    given, source = values(file), file
    for format, name in (("orbax", "a"), ("mmseg", "b.safetensors"), ("huggingface", "c"), ("mmseg", "d.safetensors")):
        assert main([str(source), str(tmp_path / name), "--to", format]) == 0
        source = tmp_path / name
        assert weights_task(source) == "segmentation"
        assert_same(values(source), given)
        info = read_upernet(source).info
        assert (info.classes, info.palette) == (NAMES, tuple(map(tuple, PALETTE)))
    config = json.loads((tmp_path / "c" / "config.json").read_text())
    assert config["id2label"]["1"] == "sky"
    assert config["backbone_config"]["focal_windows"] == [9] * 4


def test_averages_of_mmengine_and_mmcv_are_told_apart(tensors, tmp_path, file):
    given = values(file)
    other = {name: array + 1 for name, array in tensors.items()}
    new = {"meta": {"iter": 9, "dataset_meta": {"classes": list(NAMES)}}, "message_hub": {}, "state_dict": other}
    path = save(new | {"ema_state_dict": {f"module.{name}": a for name, a in tensors.items()}}, tmp_path / "new.pth")
    weights = read_upernet(path)
    assert "took the averaged weights under state_dict" in " ".join(weights.decisions)
    assert weights.info.classes == NAMES
    assert_same(values(path, which="ema_state_dict"), given)
    flat = {
        f"ema_{n.replace('.', '_')}": a + 1 for n, a in tensors.items() if not n.endswith(("var", "mean", "tracked"))
    }
    path = save({"state_dict": tensors | flat}, tmp_path / "flat.pth")
    assert_same(values(path), given)
    averaged = values(path, which="ema")
    np.testing.assert_array_equal(averaged["decode_head/conv_seg/bias"], given["decode_head/conv_seg/bias"] + 1)
    assert any("use --weights ema" in note for note in read_upernet(path).notes)


def test_prefixes_and_an_unfit_auxiliary_head_are_removed(tensors, tmp_path, file):
    wrapped = {f"module.{name}": array for name, array in tensors.items()}
    assert_same(values(save(wrapped, tmp_path / "a.pth")), values(file))
    more = tensors | {"auxiliary_head.conv_cat.conv.weight": np.zeros((5, 21, 3, 3), np.float32)}
    weights = read_upernet(save(more, tmp_path / "b.pth"))
    assert weights.heads.auxiliary_channels == 0
    assert any("auxiliary head was left out" in note for note in weights.notes)


def test_backbones_with_other_maps_are_refused_in_one_line(tensors, tmp_path):
    bare = {name: array for name, array in tensors.items() if not name.startswith("backbone.norm")}
    with pytest.raises(UserError, match=r"a FocalNet without the norms of its outputs, such as backbone.norm0.weight"):
        read_upernet(save(bare, tmp_path / "a.pth"))
    renamed = {
        name.replace("conv_seg", "classifier").replace(".bn.", ".batch_norm."): array
        for name, array in tensors.items()
        if not name.startswith("backbone.")
    }
    theirs = {f"backbone.{name}": a for name, a in load_file(GOLDEN / "huggingface_srf.safetensors").items()}
    with pytest.raises(UserError, match="transformers' FocalNetBackbone, whose maps are taken after the downsampling"):
        read_upernet(save(renamed | theirs, tmp_path / "b.pth"))
    timm = {f"backbone._backbone.{name}": a for name, a in load_file(GOLDEN / "timm_lrf.safetensors").items()}
    with pytest.raises(UserError, match="timm's FocalNet, whose maps are not normalized"):
        read_upernet(save(renamed | timm, tmp_path / "c.pth"))


def test_formats_of_classifiers_take_the_backbone_only(file, tmp_path):
    with pytest.raises(UserError, match="--to timm writes a classifier, and these are weights of segmentation"):
        main([str(file), str(tmp_path / "a.pth"), "--to", "timm"])
    with pytest.raises(UserError, match="--num-classes is for classifiers"):
        main([str(file), str(tmp_path / "a"), "--to", "orbax", "--num-classes", "3"])
    main([str(file), str(tmp_path / "step"), "--to", "orbax"])
    weights = read_weights(tmp_path / "step", head="drop")
    last = named_leaves(read_upernet(file).params)["backbone/output_norms/3/scale"]
    np.testing.assert_array_equal(weights.params["norm"]["scale"], last)
    assert weights.config.num_classes == 0
    plain = tmp_path / "plain.safetensors"
    main([str(tmp_path / "step"), str(plain), "--to", "microsoft", "--head", "drop"])
    with pytest.raises(UserError, match=r"--to mmseg writes weights of segmentation, and .* has only a backbone"):
        main([str(plain), str(tmp_path / "b.pth"), "--to", "mmseg"])
    with pytest.raises(UserError, match="is a checkpoint of the task segmentation"):
        load_into(str(tmp_path / "step"), weights.config, {}, head="remap")
