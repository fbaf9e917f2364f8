"""Weights that are stored in parts are combined if that is exact; otherwise the error names them."""

import json
import warnings

import numpy as np
import pytest
import safetensors.numpy

import focalnet_jax
from focalnet_jax.convert.weights import read_weights
from focalnet_jax.convert.write import write_weights
from focalnet_jax.errors import UserError
from focalnet_jax.model.variants import VARIANTS
from tests.commands import convert
from tests.convert.golden_files import GOLDEN, OPTIONS, in_a_directory
from tests.convert.test_layouts import OTHER, PLAIN, TENSORS, holds, read, under
from tests.convert.torch_writer import Call, save

LAYER = "layers.1.blocks.0.modulation.f"
WEIGHT = TENSORS[f"{LAYER}.weight"]
ONES = np.ones((2, 2), np.float32)
LORA = {f"{LAYER}.lora_A.default.weight": ONES, f"{LAYER}.lora_B.default.weight": ONES}


def without(name, tensors=TENSORS):
    return {key: value for key, value in tensors.items() if key != name}


def replaced(name, **parts):
    """Returns the tensors with one replaced by parts, such as `name.weight_g` and `name.weight_v`."""
    return without(f"{name}.weight") | {f"{name}.{part}": value for part, value in parts.items()}


@pytest.mark.parametrize("kind", [np.float32, bool])
def test_pruned_weights_are_values_times_masks(kind, tmp_path):
    draw = np.random.default_rng(0)
    masks = {name: draw.integers(0, 2, value.shape) for name, value in TENSORS.items() if name.endswith(".weight")}
    pruned = {name: value for name, value in TENSORS.items() if name not in masks}
    for name, mask in masks.items():
        pruned |= {f"{name}_orig": TENSORS[name], f"{name}_mask": mask.astype(kind)}
    safetensors.numpy.save_file(under("model.", pruned), tmp_path / "pruned.safetensors")
    weights = read(tmp_path / "pruned.safetensors")
    assert holds(weights, TENSORS | {name: TENSORS[name] * np.float32(mask) for name, mask in masks.items()})
    assert f"{len(masks)} pruned tensors multiplied by their masks" in weights.notes


ADAPTERS = r"contains adapters such as PEFT's LoRA.*merge_and_unload"
QUANTIZED = "contains quantized weights.*before it is quantized"
WEIGHT_NORM = "in the two parts of weight_norm.*remove_weight_norm"
NAMED = {
    "adapter": (under("base_model.model.", LORA), ADAPTERS),
    "beside": (
        under("base_model.model.", replaced(LAYER, **{"base_layer.weight": WEIGHT}) | LORA),
        rf"{ADAPTERS}",
    ),
    "loralib": (TENSORS | {f"{LAYER}.lora_A": ONES, f"{LAYER}.lora_B": ONES}, ADAPTERS),
    "weight_norm": (replaced(LAYER, weight_g=ONES, weight_v=WEIGHT), WEIGHT_NORM),
    "parametrized": (
        replaced(LAYER, **{"parametrizations.weight.original0": ONES, "parametrizations.weight.original1": WEIGHT}),
        WEIGHT_NORM,
    ),
    "stem": (replaced("stem.proj", weight_g=ONES, weight_v=WEIGHT), WEIGHT_NORM),
    "spectral_norm": (replaced(LAYER, weight_orig=WEIGHT, weight_u=ONES[0], weight_v=ONES[0]), "spectral_norm"),
    "orthogonal": (replaced(LAYER, **{"parametrizations.weight.original": WEIGHT}), "remove_parametrizations"),
    "no_mask": (replaced(LAYER, weight_orig=WEIGHT), r"pruned weights whose mask.*prune\.remove"),
    "bitsandbytes": (TENSORS | {f"{LAYER}.SCB": ONES[0], f"{LAYER}.weight": np.int8(WEIGHT)}, QUANTIZED),
    "four_bits": (TENSORS | {f"{LAYER}.weight.absmax": ONES[0], f"{LAYER}.weight.quant_map": ONES[0]}, QUANTIZED),
    "scales": (TENSORS | {f"{LAYER}.weight": np.int8(WEIGHT)}, r"f\.weight is I8, quantized; save the model"),
}


@pytest.mark.parametrize("name", NAMED)
def test_incomplete_weights_are_named_by_their_kind(name, tmp_path):
    content, message = NAMED[name]
    safetensors.numpy.save_file(content, tmp_path / name)
    with pytest.raises(UserError, match=message) as error:
        read(tmp_path / name)
    assert "\n" not in str(error.value)


def test_dynamically_quantized_layers_are_called_quantized(tmp_path):
    quantized = Call("torch._utils _rebuild_qtensor", (1, 2))
    packed = {f"{LAYER}._packed_params._packed_params": (quantized, TENSORS[f"{LAYER}.bias"])}
    layers = without(f"{LAYER}.weight", without(f"{LAYER}.bias")) | packed | {f"{LAYER}.scale": ONES[0]}
    with pytest.raises(UserError, match=QUANTIZED):
        read(save(layers, tmp_path / "dynamic.pth"))
    with pytest.raises(UserError, match=r"stem\.proj\.weight is stored as torch\._utils\._rebuild_qtensor, quantized"):
        read(save(TENSORS | {"stem.proj.weight": quantized}, tmp_path / "static.pth"))


@pytest.mark.parametrize("nested", [True, False])
def test_optimizer_state_is_refused_as_weights(nested, tmp_path):
    for name, state in (("adam", {0: {"exp_avg": ONES, "step": np.array(3)}}), ("sgd", {})):
        optimizer = {"state": state, "param_groups": [{"lr": 0.1, "params": [0]}]}
        path = save({"optimizer": optimizer} if nested else optimizer, tmp_path / name)
        with pytest.raises(
            UserError, match="contains optimizer state but no weights; expected the file with the model"
        ):
            read(path)


def test_other_models_are_reported_as_no_focalnet(tmp_path):
    swin = {"layers.0.blocks.0.attn.qkv.weight": ONES, "layers.0.blocks.1.attn_mask": ONES}
    path = save({"model": swin, "optimizer": {"state": {0: {"exp_avg": ONES}}}}, tmp_path / "swin")
    with pytest.raises(UserError, match="contains no FocalNet weights: 3 tensors"):
        read(path)


def test_parts_of_what_is_left_are_no_reason_to_refuse(tmp_path):
    head = {"head.last_layer.weight_g": ONES, "head.last_layer.weight_v": ONES, "head.mlp.0.weight": ONES}
    backbone = {name: value for name, value in TENSORS.items() if not name.startswith("head.")}
    path = save({"teacher": under("backbone.", backbone) | head}, tmp_path / "dino")
    weights = read(path)
    assert weights.config.num_classes == 0
    assert weights.decisions == ("teacher.head was left out: it is not a linear layer on the backbone's pooled output",)


@pytest.mark.parametrize("names", [("model", ".safetensors"), ("pytorch_model", ".bin")], ids=str)
def test_of_the_models_that_accelerate_saves_the_first_is_taken_with_a_note_and_any_can_be_chosen(names, tmp_path):
    stem, suffix = names
    write = safetensors.numpy.save_file if suffix == ".safetensors" else save
    write(TENSORS, tmp_path / f"{stem}{suffix}")
    write(OTHER, tmp_path / f"{stem}_1{suffix}")
    save({"state": {}}, tmp_path / "optimizer.bin")
    (tmp_path / "random_states_0.pkl").write_bytes(b"x")
    weights = read(tmp_path)
    assert holds(weights)
    message = f"took {stem}{suffix}, not the model {stem}_1 in that directory: use --weights {stem}_1 for it"
    assert weights.decisions == (message,)
    with pytest.warns(UserWarning, match=message):
        focalnet_jax.load_model(tmp_path, **PLAIN)
    for which, tensors in ((stem, TENSORS), (f"{stem}_1", OTHER), (f"{stem}_1{suffix}", OTHER)):
        chosen = read(tmp_path, which=which)
        assert holds(chosen, tensors)
        assert not chosen.decisions
    with pytest.raises(UserError, match="--weights other: expected one FocalNet of that key or prefix, found 0"):
        read(tmp_path, which="other")
    out = tmp_path.parent / f"{stem}.safetensors"
    done = convert(tmp_path, out, "--to", "timm", "--weights", f"{stem}_1", "--option", "normalize_modulator=false")
    assert f"{stem}_1{suffix}" in done.stdout.partition("sha256")[2]
    assert holds(read(out), OTHER)


def test_one_model_in_two_formats_is_no_choice(tmp_path):
    safetensors.numpy.save_file(under("model.") | under("ema.", OTHER), tmp_path / "model.safetensors")
    save(OTHER, tmp_path / "pytorch_model.bin")
    assert read(tmp_path).decisions == ("took model, not the averaged weights, ema: use --weights ema for them",)
    assert holds(read(tmp_path, which="model"))  # the weights in the file that is read
    assert holds(read(tmp_path, which="ema"), OTHER)
    assert holds(read(tmp_path, which="pytorch_model"), OTHER)


def test_averages_are_chosen_in_capitals_too(tmp_path):
    path = save({"state_dict": under("model."), "state_dict_ema": OTHER, "Teacher": TENSORS}, tmp_path / "file")
    assert holds(read(path, which="EMA"), OTHER)
    assert holds(read(path, which="Ema"), OTHER)
    assert holds(read(path, which="teacher"))


@pytest.mark.parametrize(
    "name", ["focalnet_tiny_srf.ms_in1k", "hf-hub:timm/focalnet_tiny_srf.ms_in1k", "timm/focalnet_tiny_srf"]
)
def test_a_variant_is_known_by_what_timm_and_the_hub_call_it(name):
    path = GOLDEN / "huggingface_srf.safetensors"
    with pytest.raises(UserError, match="these are not the weights of focalnet_tiny_srf: embed_dim"):
        read_weights(path, name=name, options=OPTIONS["huggingface_srf"])


ADDRESSES = {
    "hf-hub:timm/focalnet_tiny_srf.ms_in1k": "give hf://timm/focalnet_tiny_srf.ms_in1k",
    "hf_hub:timm/focalnet_tiny_srf.ms_in1k@main": "give hf://timm/focalnet_tiny_srf.ms_in1k@main",
    "https://huggingface.co/microsoft/focalnet-tiny": "give hf://microsoft/focalnet-tiny",
    "https://huggingface.co/microsoft/focalnet-tiny/blob/main/model.safetensors": "focalnet-tiny/model.safetensors",
    "https://huggingface.co/microsoft/focalnet-tiny/blob/v1/a/b.bin": "give hf://microsoft/focalnet-tiny@v1/a/b.bin",
    "https://hf.co/microsoft/focalnet-tiny/tree/main": "give hf://microsoft/focalnet-tiny",
    "https://example.com/a/focalnet_tiny_srf.pth?download=true": "download the file and give its path",
    "timm/focalnet_tiny_srf.ms_in1k": "give hf://timm/focalnet_tiny_srf.ms_in1k",
    "focalnet_tiny_srf.ms_in1k": "give hf://timm/focalnet_tiny_srf.ms_in1k",
    "s3://bucket/model.pth": "S3 is not supported; mount the bucket, or download the file and give its path",
    "gcs://bucket/model.pth": "Did you mean gs://bucket/model.pth?",
    "file:///tmp/x.pth": "give the file as a path, /tmp/x.pth",
}


@pytest.mark.parametrize("path", ADDRESSES)
def test_a_url_or_a_name_of_the_hub_is_refused_with_what_to_give(path, tmp_path):
    with pytest.raises(UserError) as error:
        focalnet_jax.load_model(path)
    assert ADDRESSES[path] in str(error.value)
    done = convert(path, tmp_path / "out", "--to", "orbax")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert ADDRESSES[path] in done.stderr
    assert path.partition("?")[0].removeprefix("file://") in done.stderr


def test_weights_of_timm_that_may_compute_otherwise_say_so(tmp_path, monkeypatch):
    small = dict(embed_dim=8, depths=(1, 2), use_conv_embed=True, use_postln=True, use_layerscale=True)
    golden = read_weights(GOLDEN / "timm_fl4.safetensors", options=OPTIONS["timm_fl4"])
    small |= dict(focal_levels=golden.config.focal_levels, use_postln_in_modulation=False, normalize_modulator=True)
    monkeypatch.setitem(VARIANTS, "focalnet_large_fl4", small)
    for format, noted in (("timm", True), ("microsoft", False)):
        write_weights(golden, tmp_path / f"{format}.safetensors", format=format)
        weights = read_weights(tmp_path / f"{format}.safetensors")
        assert weights.name == "focalnet_large_fl4"
        assert any("normalize_modulator=True as in the original's" in each for each in weights.decisions) is noted
    for value in (False, True):
        given = read_weights(tmp_path / "timm.safetensors", options={"normalize_modulator": value})
        assert (given.config.normalize_modulator, given.decisions) == (value, ())


@pytest.mark.parametrize("name", ["focalnet_large_fl4", "focalnet_huge_fl4"])
def test_a_timm_directory_without_arguments_is_what_timm_makes_of_it(name, tmp_path):
    write_weights(
        read_weights(GOLDEN / "timm_fl4.safetensors", options=OPTIONS["timm_fl4"]),
        tmp_path / "a.safetensors",
        format="timm",
    )
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "a.safetensors").rename(folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"architecture": name}))
    weights = read_weights(folder)
    assert (weights.config.normalize_modulator, weights.config.use_postln) == (False, True)
    assert "normalize_modulator=False from config.json" in weights.notes
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        focalnet_jax.load_model(folder)
    assert read_weights(folder, options={"normalize_modulator": True}).config.normalize_modulator
    (folder / "config.json").write_text(
        json.dumps({"architecture": name, "model_args": {"normalize_modulator": False}})
    )
    with pytest.raises(UserError, match="normalize_modulator=True was given, but it is False according to config"):
        read_weights(folder, options={"normalize_modulator": True})


def test_a_link_to_weights_is_read_with_the_files_that_describe_these(tmp_path):
    folder = in_a_directory(tmp_path / "model", use_post_layernorm=True)
    (tmp_path / "best.safetensors").symlink_to(folder / "model.safetensors")
    expected = read_weights(folder)
    for path in (folder / "model.safetensors", tmp_path / "best.safetensors"):
        found = read_weights(path)
        assert (found.config, found.info) == (expected.config, expected.info)


def test_a_repository_in_the_hubs_cache_names_its_snapshot(tmp_path):
    snapshot = tmp_path / "models--timm--focalnet" / "snapshots" / "0a1b2c"
    snapshot.mkdir(parents=True)
    with pytest.raises(UserError, match=rf"give a snapshot in it, {snapshot}"):
        read_weights(tmp_path / "models--timm--focalnet")
