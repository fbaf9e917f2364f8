"""Files saved by torch, timm and transformers are read like these libraries do; errors name unsupported files."""

import argparse
import collections
import datetime
import enum
import functools
import pickle
import random
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import transformers
from timm.models.focalnet import FocalNet
from timm.utils import ModelEmaV2, ModelEmaV3

from focalnet_jax.convert.files import read_tensors
from focalnet_jax.convert.huggingface import transformers_config
from focalnet_jax.convert.weights import read_weights
from focalnet_jax.errors import UserError
from parity.measure import reduced
from parity.test_files import UNSTATED, assert_same

CONFIG = reduced("focalnet_tiny_srf")


def timm_model(seed=0, **options):
    torch.manual_seed(seed)
    sizes = dict(num_classes=5, embed_dim=16, depths=(1, 1), focal_levels=(2, 2), focal_windows=(3, 3))
    return FocalNet(**(sizes | options)).eval()


MODEL = timm_model()
STATE = MODEL.state_dict()
OTHER = timm_model(seed=1).state_dict()


class AttributeDict(dict):
    """Hyperparameters of the type that Lightning saves."""


class Phase(enum.Enum):
    """An enum, which is pickled as a call of getattr."""

    TRAIN = "train"


class Tracker:
    """An object with slots and a custom pickle state."""

    __slots__ = ("history", "when")

    def __init__(self):
        self.history, self.when = collections.deque([1.0, 2.0]), datetime.datetime(2022, 3, 22)


class Spectrum(torch.Tensor):
    """A tensor subclass."""


def beside():
    """Returns the additional entries that trainers save next to weights."""
    other = timm_model(seed=2)
    optimizer = torch.optim.AdamW(other.parameters())
    sum(parameter.sum() for parameter in other.parameters()).backward()
    optimizer.step()
    return {
        "optimizer": optimizer.state_dict(),
        "scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer, functools.partial(pow, 2)).state_dict(),
        "scaler": torch.amp.GradScaler("cpu").state_dict(),
        "hyper_parameters": AttributeDict(lr=0.1, phase=Phase.TRAIN, net=MODEL, path=Path("x")),
        "args": argparse.Namespace(lr=0.1, betas=(0.9, 0.999), sizes={224, 384}, frozen=frozenset({1})),
        "rng": {"py": random.getstate(), "np": np.random.default_rng(0), "torch": torch.get_rng_state()},
        "figures": [np.float32(1), np.float64(2), np.arange(3), 3 + 4j, b"bytes", bytearray(b"x"), 10**30, range(3)],
        "counts": [collections.defaultdict(int, a=1), collections.Counter("ab"), collections.ChainMap({"a": 1})],
        "torch": [torch.float32, torch.device("cpu"), torch.Size([1]), torch.strided, Spectrum(3)],
        "tensors": [
            torch.eye(3).to_sparse(),
            torch.empty(3, device="meta"),
            torch.quantize_per_tensor(torch.ones(3), 1, 0, torch.qint8),
        ],
        "functions": [len, torch.nn.functional.gelu, functools.partial(pow, 2), slice(1), Tracker(), Ellipsis],
        5: "a number as key",
        ("a", "tuple"): torch.ones(1),
    }


CONTAINERS = {
    "lightning.ckpt": lambda: {"state_dict": {f"model.{name}": value for name, value in STATE.items()}},
    "timm.pth.tar": lambda: {"state_dict": torch.nn.DataParallel(MODEL).state_dict(), "arch": "focalnet_tiny_srf"},
    "compiled.bin": lambda: {"net": torch.compile(MODEL).state_dict()},
    "swa.pth": lambda: {"model": torch.optim.swa_utils.AveragedModel(MODEL).state_dict()},
    "parameters": lambda: {"model": dict(MODEL.named_parameters())},
    "flattened.model": lambda: {"model": shared(STATE)},
    "nested.pt": lambda: {"models": OrderedDict(net=OrderedDict(STATE))},
}


def shared(state):
    """Returns the tensors as views of one storage, some of them transposed."""
    joined = torch.cat([value.t().reshape(-1) if value.ndim == 2 else value.reshape(-1) for value in state.values()])
    parts = joined.split([value.numel() for value in state.values()])
    return {
        name: part.view(value.t().shape).t() if value.ndim == 2 else part.view(value.shape)
        for (name, value), part in zip(state.items(), parts, strict=True)
    }


@pytest.mark.parametrize("name", CONTAINERS)
@pytest.mark.parametrize("how", [dict(), dict(_use_new_zipfile_serialization=False), dict(pickle_protocol=5)])
def test_what_trainers_save_is_read_whatever_is_beside_it(name, how, tmp_path):
    torch.save({**CONTAINERS[name](), **beside()}, tmp_path / name, **how)
    assert_same(read_weights(tmp_path / name, options=UNSTATED), STATE, "timm")


@pytest.mark.parametrize("how", [dict(), dict(_use_new_zipfile_serialization=False)])
def test_every_tensor_is_the_one_torch_reads(how, tmp_path):
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(4, 6, 8, generator=generator)
    dtypes = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool)
    tensors = {str(dtype): (10 * values).to(dtype) for dtype in dtypes}
    tensors |= {
        "part": values[1:3, ::2],
        "transposed": values.permute(2, 0, 1),
        "channels last": torch.randn(2, 3, 4, 5, generator=generator).to(memory_format=torch.channels_last),
        "scalar": values.sum(),
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(values),
        "complex": torch.complex(values, values),
    }
    if not how:  # the older format does not store their type
        tensors |= {"eight bits": values.to(torch.float8_e4m3fn), "unsigned": torch.ones(3, dtype=torch.uint16)}
    torch.save({"a": tensors}, tmp_path / "file", **how)
    read = read_tensors(tmp_path / "file")
    theirs = torch.load(tmp_path / "file", weights_only=True)["a"]
    assert [name.removeprefix("a.") for name in read] == list(theirs)
    for name, tensor in theirs.items():
        found = read[f"a.{name}"]
        assert found.shape == tuple(tensor.shape)
        assert (
            found.tobytes() == tensor.detach().contiguous().view(torch.uint8).numpy().tobytes() if tensor.ndim else True
        )
        assert read.dtypes[f"a.{name}"] == str(tensor.dtype).removeprefix("torch.")


def test_averaged_weights_of_timm_can_be_chosen(tmp_path):
    for wrapper in (ModelEmaV2, ModelEmaV3):
        averaged = wrapper(timm_model(seed=1))
        torch.save({"state_dict": STATE, "state_dict_ema": averaged.state_dict()}, tmp_path / "timm.pth.tar")
        weights = read_weights(tmp_path / "timm.pth.tar", options=UNSTATED)
        assert_same(weights, STATE, "timm")
        assert "use --weights ema for them" in weights.notes[0]
        assert_same(read_weights(tmp_path / "timm.pth.tar", options=UNSTATED, which="ema"), OTHER, "timm")


def test_feature_extractors_of_timm_are_backbones(tmp_path):
    model = timm.create_model("focalnet_tiny_srf", features_only=True)
    torch.save({f"encoder.model.{name}": value for name, value in model.state_dict().items()}, tmp_path / "smp.pth")
    weights = read_weights(tmp_path / "smp.pth", options=UNSTATED)
    assert (weights.config.depths, weights.config.num_classes) == ((2, 2, 6, 2), 0)
    np.testing.assert_array_equal(weights.params["patch_embed"]["norm"]["bias"], model.state_dict()["stem.norm.bias"])


def hf_config():
    stated = transformers.FocalNetConfig(**transformers_config(CONFIG, 224))
    stated.encoder_stride = 32
    return stated


@pytest.mark.parametrize("kind", ["ForImageClassification", "Model", "Backbone", "ForMaskedImageModeling"])
def test_every_model_of_transformers_is_read(kind, tmp_path):
    model = getattr(transformers, f"FocalNet{kind}")(hf_config())
    model.save_pretrained(tmp_path / "safe")
    model.save_pretrained(tmp_path / "sharded", max_shard_size="200KB")
    bare = {f"model.vision.{name}": value for name, value in model.state_dict().items()}
    torch.save({"state_dict": bare}, tmp_path / "wrapped.ckpt")
    for name in ("safe", "sharded", "wrapped.ckpt"):
        weights = read_weights(tmp_path / name, options=UNSTATED)
        assert weights.config.num_classes == (CONFIG.num_classes if kind == "ForImageClassification" else 0)
        projection = model.get_submodule("embeddings" if kind == "Model" else "focalnet.embeddings").norm.bias
        np.testing.assert_array_equal(weights.params["patch_embed"]["norm"]["bias"], projection.detach().numpy())
        assert any("tensors left out" in note for note in weights.notes) == (kind == "ForMaskedImageModeling")


def test_shards_of_torch_files_are_read(tmp_path):
    model = transformers.FocalNetForImageClassification(hf_config())
    names = list(model.state_dict())
    owner = {name: f"pytorch_model-0000{1 + index % 2}-of-00002.bin" for index, name in enumerate(names)}
    for shard in set(owner.values()):
        torch.save({name: model.state_dict()[name] for name in names if owner[name] == shard}, tmp_path / shard)
    (tmp_path / "pytorch_model.bin.index.json").write_text(f'{{"weight_map": {str(owner).replace(chr(39), chr(34))}}}')
    assert_same(read_weights(tmp_path, options=UNSTATED), model.state_dict(), "huggingface")


def test_programs_and_whole_models_are_named_by_their_kind(tmp_path):
    example = torch.zeros(1, 3, 32, 32)
    torch.jit.save(torch.jit.trace(MODEL, example), tmp_path / "jit.pt")
    torch.export.save(torch.export.export(MODEL, (example,)), tmp_path / "program.pt2")
    torch.save(MODEL, tmp_path / "whole.pth")
    torch.save({"epoch": 3, "model": MODEL}, tmp_path / "inside.pth")
    torch.save({"model": torch.nn.DataParallel(MODEL)}, tmp_path / "legacy.pth", _use_new_zipfile_serialization=False)
    for name, what in {
        "jit.pt": r"a TorchScript program \(torch\.jit\.save\)",
        "program.pt2": r"an exported program \(torch\.export\.save\)",
        "whole.pth": r"contains a pickled model, timm\.models\.focalnet\.FocalNet",
        "inside.pth": r"contains a pickled model, timm\.models\.focalnet\.FocalNet",
        "legacy.pth": r"contains a pickled model, torch\.nn\.parallel",
    }.items():
        with pytest.raises(UserError, match=what):
            read_weights(tmp_path / name, options=UNSTATED)


def test_a_file_without_checksums_is_read(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(STATE, tmp_path / "file.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    assert_same(read_weights(tmp_path / "file.pth", options=UNSTATED), STATE, "timm")


def test_float64_and_prefixes_in_safetensors(tmp_path):
    double = {f"model.{name}": value.double() for name, value in STATE.items()}
    safetensors.torch.save_file(double, tmp_path / "double")
    weights = read_weights(tmp_path / "double", options=UNSTATED)
    assert weights.dtype == "float64"
    assert_same(weights, STATE, "timm")


def test_pickled_arrays_are_read(tmp_path):
    content = {"model": {name: value.numpy() for name, value in STATE.items()}, "matching_heuristics": True}
    for protocol in range(2, 6):
        (tmp_path / "model.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
        assert_same(read_weights(tmp_path / "model.pkl", options=UNSTATED), STATE, "timm")


def test_negative_views_are_read_with_their_sign(tmp_path):
    negative = {name: torch.complex(torch.zeros_like(value), -value).conj().imag for name, value in STATE.items()}
    assert all(value.is_neg() for value in negative.values())
    torch.save(negative, tmp_path / "file.pth")
    assert_same(read_weights(tmp_path / "file.pth", options=UNSTATED), STATE, "timm")


@pytest.mark.parametrize("wrapper", ["_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module._orig_mod"])
def test_wrappers_of_parts_are_taken_off_their_names(wrapper, tmp_path):
    parts = ("layers.0", "layers.1", "blocks.0", "mlp", "stem", "head", "modulation")
    for part in parts:
        wrapped = {f".{name}".replace(f".{part}.", f".{part}.{wrapper}.")[1:]: value for name, value in STATE.items()}
        assert wrapped.keys() != STATE.keys()
        torch.save({"model": {f"module.{name}": value for name, value in wrapped.items()}}, tmp_path / "file.pth")
        assert_same(read_weights(tmp_path / "file.pth", options=UNSTATED), STATE, "timm")
