"""PyTorch files are read, rejected and written like the libraries do."""

import argparse
import datetime
import os
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import transformers
from safetensors.torch import load_file
from timm.models.focalnet import checkpoint_filter_fn
from yacs.config import CfgNode

from focalnet_jax.convert.huggingface import transformers_config
from focalnet_jax.convert.mapping import entries, params_to_tensors
from focalnet_jax.convert.weights import read_weights
from focalnet_jax.convert.write import write_weights
from focalnet_jax.data.class_lists import class_list
from focalnet_jax.errors import UserError
from focalnet_jax.model import list_models, variant_config
from parity import pytorch
from parity.measure import photos, reduced, relative, soft_targets
from parity.pairs import PAIRS

CONFIG = reduced("focalnet_tiny_lrf")
UNSTATED = dict(use_postln=False, normalize_modulator=False)


def saved(tmp_path, config=CONFIG, **beside):
    """Returns the path of a .pth of a timm model, and the model."""
    model = pytorch.build(config, "timm")
    path = tmp_path / "timm.pth"
    torch.save({"state_dict": model.state_dict(), **beside} if beside else model.state_dict(), path)
    return path, model


def assert_same(weights, tensors, format):
    """Asserts that `weights` are bitwise equal to the `tensors` of `format`."""
    written = dict(params_to_tensors(weights.params, weights.config, format))
    assert set(written) == set(tensors)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(written[name], tensor.float().numpy(), err_msg=name)


@pytest.mark.parametrize("name", list_models())
def test_every_key_and_shape_of_full_size_models_is_the_librarys(name):
    config = variant_config(name)
    with torch.device("meta"):
        models = {"huggingface": transformers.FocalNetForImageClassification(hf_config(config))}
        if config.patch_size == 4:
            models["timm"] = timm.create_model(name, num_classes=config.num_classes)
    for format, model in models.items():
        theirs = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
        assert {entry.key: entry.shape for entry in entries(config, format)} == theirs


def hf_config(config):
    return transformers.FocalNetConfig(**transformers_config(config, 224))


@pytest.mark.parametrize(("config", "library"), PAIRS)
def test_files_there_and_back_are_bit_equal(config, library, tmp_path):
    format = pytorch.FORMATS[library]
    tensors = pytorch.build(config, library).state_dict()
    torch.save(tensors, tmp_path / "theirs.pth")
    unstated = dict(use_postln=config.use_postln, normalize_modulator=config.normalize_modulator)
    weights = read_weights(tmp_path / "theirs.pth", options=unstated)
    assert weights.config.dims == config.dims
    assert_same(weights, tensors, format)
    for target in ("microsoft", format, "orbax"):
        to_file = target in ("microsoft", "timm")
        path = tmp_path / (f"{target}.pth" if to_file else target)
        write_weights(weights, path, format=target)
        back = read_weights(path, options=unstated)
        assert back.config == weights.config
        assert_same(back, tensors, format)


@pytest.mark.parametrize("name", ["focalnet_tiny_lrf", "focalnet_large_fl4", "focalnet_huge_fl3"])
def test_microsofts_keys_are_those_timm_reads(name, tmp_path):
    config = reduced(name)
    unstated = dict(use_postln=config.use_postln, normalize_modulator=config.normalize_modulator)
    path, model = saved(tmp_path, config)
    write_weights(read_weights(path, options=unstated), tmp_path / "microsoft.pth", format="microsoft")
    other = pytorch.build(config, "timm", seed=1)
    stored = torch.load(tmp_path / "microsoft.pth", weights_only=True)
    assert list(stored) == ["model"]  # like the original's checkpoints
    other.load_state_dict(checkpoint_filter_fn(stored, other), strict=True)
    for name, tensor in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor), name


def test_written_files_load_into_the_libraries_and_compute_the_same(tmp_path):
    path, model = saved(tmp_path, CONFIG)
    images, targets = photos(224, 224), soft_targets(CONFIG.num_classes)
    expected = pytorch.run(model, images, targets, gradients=False).logits
    weights = read_weights(path, options=UNSTATED)

    write_weights(weights, tmp_path / "timm.safetensors", format="timm")
    other = pytorch.build(CONFIG, "timm", seed=1)
    other.load_state_dict(load_file(tmp_path / "timm.safetensors"), strict=True)
    assert np.array_equal(pytorch.run(other, images, targets, gradients=False).logits, expected)

    write_weights(weights, tmp_path / "huggingface", format="huggingface")
    loaded, info = transformers.FocalNetForImageClassification.from_pretrained(
        tmp_path / "huggingface", output_loading_info=True
    )
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert relative(pytorch.run(loaded, images, targets, gradients=False).logits, expected) < 1e-5
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "huggingface")
    assert processor.size["shortest_edge"] == 256


def test_weights_are_found_in_what_trainers_save_and_prefixes_come_off(tmp_path):
    _, model = saved(tmp_path)
    expected = model.state_dict()
    optimizer = torch.optim.AdamW(model.parameters())
    beside = dict(
        optimizer=optimizer.state_dict(),
        best=np.float64(82.1),  # a metric
        config=CfgNode({"MODEL": CfgNode({"NAME": "x"})}),
        best_acc=torch.tensor(82.1),
        rng=torch.get_rng_state(),
        args=argparse.Namespace(
            lr=1, out=Path("runs"), begun=datetime.datetime(2022, 3, 22), mean=np.zeros(3), which=np.int64(3)
        ),
    )
    variants = {
        "nested.pth": {"model": expected, **beside, "epoch": 3},
        "timm.pth.tar.pth": {"state_dict": {f"module.{name}": tensor for name, tensor in expected.items()}, **beside},
        "averaged.pth": {"state_dict_ema": expected, **beside},
        "vision.pth": {"model": OrderedDict((f"vision.{name}", tensor) for name, tensor in expected.items())},
    }
    for name, content in variants.items():
        torch.save(content, tmp_path / name)
        weights = read_weights(tmp_path / name, options=UNSTATED)
        assert_same(weights, expected, "timm")
    torch.save({"model": expected, "state_dict": {"x": torch.zeros(1)}, **beside}, tmp_path / "two.pth")
    notes = read_weights(tmp_path / "two.pth", options=UNSTATED).notes
    assert any("tensors left out" in note and "state_dict (1)" in note for note in notes)
    assert "averaged weights" in read_weights(tmp_path / "averaged.pth", options=UNSTATED).notes[0]
    torch.save(expected | {"step": 3}, tmp_path / "beside.pth")
    assert "1 entries that are not tensors left out" in read_weights(tmp_path / "beside.pth", options=UNSTATED).notes[0]
    torch.save(expected, tmp_path / "legacy.pth", _use_new_zipfile_serialization=False)
    assert_same(read_weights(tmp_path / "legacy.pth", options=UNSTATED), expected, "timm")
    half = {name: tensor.bfloat16() for name, tensor in expected.items()}
    torch.save(half, tmp_path / "half.pth")
    weights = read_weights(tmp_path / "half.pth", options=UNSTATED)
    assert weights.dtype == "bfloat16"
    assert_same(weights, half, "timm")
    write_weights(weights, tmp_path / "half_again.pth", format="timm")
    for name, tensor in torch.load(tmp_path / "half_again.pth", weights_only=True).items():
        assert torch.equal(tensor, half[name]), name


@pytest.mark.parametrize(("count", "file"), [(1000, "imagenet_synsets.txt"), (21842, "imagenet22k_ms_synsets.txt")])
def test_the_class_lists_are_timms(count, file):
    theirs = (Path(timm.__file__).parent / "data" / "_info" / file).read_text().split()
    assert [synset for synset, _ in class_list(count)] == theirs


class _Malicious:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


@pytest.mark.fault(40)
def test_damaged_and_malicious_pickles_are_refused_in_one_line_with_nothing_run_or_written(tmp_path):
    path, model = saved(tmp_path)
    torch.save({"model": model.state_dict(), "extra": _Malicious(tmp_path / "ran")}, tmp_path / "evil.pth")
    whole = path.read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "page.pth").write_bytes(b"<html>")
    (tmp_path / "empty.pth").write_bytes(b"")
    torch.save([1, 2], tmp_path / "list.pth")
    before = sorted(tmp_path.iterdir())
    for name, expected in {
        "evil.pth": "system",
        "cut.pth": "damaged",
        "page.pth": "web page",
        "empty.pth": "is empty",
        "list.pth": "no state dict",
    }.items():
        done = subprocess.run(
            [sys.executable, "-m", "focalnet_jax.convert", tmp_path / name, tmp_path / "out.pth", "--to", "timm"],
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 2, done.stderr
        assert expected in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
        with pytest.raises(UserError):
            read_weights(tmp_path / name)
    assert sorted(tmp_path.iterdir()) == before  # neither `ran` nor `out.pth`
