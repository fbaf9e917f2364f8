"""Weights of timm and transformers give the same outputs here, and are bitwise equal after conversions."""

import ast
import dataclasses
import json
import re

import jax
import numpy as np
import optax
import pytest
import safetensors.numpy
from flax import nnx

import focalnet_jax
from focalnet_jax.convert.files import read_tensors
from focalnet_jax.convert.info import WeightsInfo
from focalnet_jax.convert.mapping import entries, tensors_to_params
from focalnet_jax.convert.recognise import check_options, recognise, released_name
from focalnet_jax.convert.select import Candidate, find_candidates
from focalnet_jax.convert.weights import Weights, read_weights
from focalnet_jax.convert.write import write_weights
from focalnet_jax.errors import UserError
from focalnet_jax.model import list_models, variant_config
from focalnet_jax.model.precision import get_precision
from focalnet_jax.model.variants import ABLATIONS
from focalnet_jax.parameters import named_leaves
from focalnet_jax.programs.config_files import load_config
from focalnet_jax.training.run import set_up
from tests.commands import SMALL, assert_one_line_mistake, convert
from tests.convert.golden_files import GOLDEN, OPTIONS
from tests.convert.random_weights import weights_of


def relative(ours, theirs):
    return np.linalg.norm(np.asarray(ours) - theirs) / np.linalg.norm(theirs)


@pytest.mark.parametrize("name", OPTIONS)
def test_logits_features_and_gradients_are_those_of_pytorch(name):
    model = focalnet_jax.load_model(GOLDEN / f"{name}.safetensors", **OPTIONS[name])
    golden = np.load(GOLDEN / f"{name}.npz")
    # float32 on both sides, summed in different orders
    assert relative(model(golden["images"]), golden["logits"]) < 1e-5
    for index, maps in enumerate(model.features(golden["images"])):
        assert relative(maps, golden[f"features{index}"]) < 1e-5
    graph, params = nnx.split(model)

    def loss(params):
        return optax.softmax_cross_entropy(nnx.merge(graph, params)(golden["images"]), golden["targets"]).mean()

    loss_gradient = jax.grad(loss)
    quick = {"xla_backend_optimization_level": 0}  # for a single evaluation, compilation takes longest
    gradients = jax.jit(loss_gradient, compiler_options=quick)(nnx.to_pure_dict(params))
    theirs = tensors_to_params(read_tensors(GOLDEN / f"{name}.gradients.safetensors"), model.config, name.split("_")[0])
    for path, gradient in named_leaves(gradients).items():
        assert relative(gradient, named_leaves(theirs)[path]) < 1e-4, path


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("format", ["microsoft", "timm", "huggingface", "orbax"])
def test_a_round_trip_through_any_format_keeps_every_bit(name, format, tmp_path):
    source = GOLDEN / f"{name}.safetensors"
    weights = read_weights(source, options=OPTIONS[name])
    there = tmp_path / ("there.safetensors" if format in ("microsoft", "timm") else "there")
    write_weights(weights, there, format=format)
    back = read_weights(there, options=OPTIONS[name])
    assert back.config == weights.config
    write_weights(back, tmp_path / "back.safetensors", format=name.split("_")[0]) if "timm" in name else None
    write_weights(back, tmp_path / "back", format="huggingface") if "hugg" in name else None
    result = read_tensors(tmp_path / ("back.safetensors" if "timm" in name else "back"))
    original = read_tensors(source)
    assert set(result) == set(original)
    for key in original:
        np.testing.assert_array_equal(result[key], original[key], err_msg=key)


@pytest.mark.parametrize("name", list_models())
@pytest.mark.parametrize("format", ["microsoft", "timm", "huggingface"])
def test_every_table_covers_every_variant_exactly_once_and_its_shapes_tell_which_it_is(name, format):
    covered = entries(variant_config(name), format)
    shapes = {entry.key: entry.shape for entry in covered}
    assert len(shapes) == len(covered)
    assert find_candidates([f"module.{key}" for key in shapes]) == [Candidate(format, "module.")]
    found = recognise(shapes, format=format)
    assert found.name == name
    # options that a file does not contain are the variant's
    assert found.config == variant_config(name)


def test_mixed_precision_is_written_only_in_a_stated_type_that_holds_it(tmp_path):
    tensors = safetensors.numpy.load_file(GOLDEN / "timm_lrf.safetensors")
    mixed = tensors | {"norm.bias": tensors["norm.bias"].astype(np.float16)}
    safetensors.numpy.save_file(mixed, tmp_path / "mixed.safetensors")
    weights = read_weights(tmp_path / "mixed.safetensors", options=OPTIONS["timm_lrf"])
    with pytest.raises(UserError, match="float16 and float32: choose the dtype to write with --dtype"):
        write_weights(weights, tmp_path / "out.safetensors", format="timm")
    report = write_weights(weights, tmp_path / "out.safetensors", format="timm", dtype="float32")
    assert "cast from float16 and float32 to float32" in report.notes
    safetensors.numpy.save_file(tensors | {"norm.bias": tensors["norm.bias"] * 1e6}, tmp_path / "big.safetensors")
    weights = read_weights(tmp_path / "big.safetensors", options=OPTIONS["timm_lrf"])
    with pytest.raises(UserError, match=r"norm.bias has values up to .*, too large for float16"):
        write_weights(weights, tmp_path / "half.safetensors", format="timm", dtype="float16")
    assert not (tmp_path / "half.safetensors").exists()


def test_shards_are_read_as_one_file(tmp_path):
    tensors = safetensors.numpy.load_file(GOLDEN / "huggingface_srf.safetensors")
    names = list(tensors)
    owner = {name: f"model-{1 + (index % 2)}.safetensors" for index, name in enumerate(names)}
    for shard in set(owner.values()):
        part = {name: tensors[name] for name in names if owner[name] == shard}
        safetensors.numpy.save_file(part, tmp_path / shard)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": owner}))
    options = OPTIONS["huggingface_srf"]
    for path in (index, tmp_path):  # an index, and a directory with an index
        params = named_leaves(read_weights(path, options=options).params)
        for name, value in named_leaves(
            read_weights(GOLDEN / "huggingface_srf.safetensors", options=options).params
        ).items():
            np.testing.assert_array_equal(params[name], value)
    (tmp_path / "model-2.safetensors").unlink()
    with pytest.raises(UserError, match=r"lists the shard model-2.safetensors, which is missing: copy all shards into"):
        read_weights(index, options=options)
    index.write_text("{}")
    with pytest.raises(UserError, match="not an index of shards"):
        read_weights(index, options=options)


def test_converted_weights_cannot_be_resumed(finished, tmp_path):
    workdir, _ = finished
    write_weights(read_weights(workdir), tmp_path / "checkpoints" / "3", format="orbax")
    with pytest.raises(UserError, match="checkpoints/3 contains only weights"):
        set_up(load_config("configs/quickstart.py", SMALL[1:]), tmp_path)
    done = convert(workdir, workdir / "checkpoints" / "99", "--to", "orbax")
    assert_one_line_mistake(done, "write to another directory")


@pytest.mark.parametrize("ratio", [2.7, 4.0, 3.5, 1.01, 8 / 3])
@pytest.mark.parametrize("format", ["microsoft", "timm", "huggingface"])
def test_an_mlp_ratio_is_recognised_from_all_stages(ratio, format):
    config = variant_config("focalnet_tiny_srf", mlp_ratio=ratio)
    shapes = {entry.key: entry.shape for entry in entries(config, format)}
    unstated = dict(use_postln=False, normalize_modulator=False)
    found = recognise(shapes, format=format, overrides=unstated).config.mlp_ratio
    assert [int(dim * found) for dim in config.dims] == [int(dim * ratio) for dim in config.dims]
    assert found == pytest.approx(ratio, abs=1 / config.dims[-1])


def test_a_single_stage_that_microsofts_format_cannot_tell_apart_is_not_written_in_it(tmp_path):
    config = variant_config("focalnet_tiny_srf", embed_dim=8, depths=(1,), patch_size=7, num_classes=5)
    params = nnx.to_pure_dict(
        nnx.state(focalnet_jax.FocalNet(config, precision=get_precision("float32"), rngs=nnx.Rngs(0)), nnx.Param)
    )
    weights = Weights(params, config, None, "orbax", "float32", ())
    with pytest.raises(UserError, match="overlapped embedding"):
        write_weights(weights, tmp_path / "m.safetensors", format="microsoft")
    write_weights(weights, tmp_path / "model", format="huggingface")
    assert read_weights(tmp_path / "model").config.patch_size == 7


def test_microsofts_keys_are_the_originals():
    flags = dict(use_layerscale=True, use_postln_in_modulation=True, use_conv_embed=True)
    config = variant_config("focalnet_tiny_srf", depths=(1, 1), embed_dim=8, focal_levels=1, **flags)
    block = [
        "gamma_1", "gamma_2", "norm1.weight", "norm1.bias", "modulation.f.weight", "modulation.f.bias",
        "modulation.h.weight", "modulation.h.bias", "modulation.proj.weight", "modulation.proj.bias",
        "modulation.focal_layers.0.0.weight", "modulation.ln.weight", "modulation.ln.bias", "norm2.weight",
        "norm2.bias", "mlp.fc1.weight", "mlp.fc1.bias", "mlp.fc2.weight", "mlp.fc2.bias",
    ]  # fmt: skip
    expected = {f"layers.{stage}.blocks.0.{key}" for stage in (0, 1) for key in block}
    for layer in ("patch_embed.proj", "patch_embed.norm", "layers.0.downsample.proj", "layers.0.downsample.norm"):
        expected |= {f"{layer}.weight", f"{layer}.bias"}
    expected |= {"norm.weight", "norm.bias", "head.weight", "head.bias"}
    assert {entry.key for entry in entries(config, "microsoft")} == expected


@pytest.mark.parametrize("format", ["microsoft", "timm"])
def test_a_file_of_a_model_without_a_name_states_its_options(format, tmp_path):
    for options in (dict(normalize_modulator=True), dict(use_postln=True)):
        weights = weights_of(**options)
        path = tmp_path / f"{'-'.join(options)}.safetensors"
        write_weights(weights, path, format=format)
        assert read_weights(path).config == weights.config
        with pytest.raises(
            UserError, match=r"=False was given, but it is True according to (the file's metadata|the tensors' names)"
        ):
            read_weights(path, options=dict.fromkeys(options, False))
    path = tmp_path / "damaged.safetensors"
    tensors = safetensors.numpy.load_file(tmp_path / "normalize_modulator.safetensors")
    safetensors.numpy.save_file(tensors, path, {"focalnet_jax.options": '{"use_postln": 1}'})
    with pytest.raises(UserError, match=r"metadata focalnet_jax\.options is damaged; expected true or false"):
        read_weights(path)


@pytest.mark.parametrize("format", ["microsoft", "timm"])
def test_the_note_on_a_file_without_options_names_the_flags_that_read_it_again(format, tmp_path, monkeypatch):
    monkeypatch.setattr("focalnet_jax.convert.write.import_torch", lambda path: None)
    monkeypatch.setattr("focalnet_jax.convert.write.write_tensors", write_without_torch)
    weights = weights_of(normalize_modulator=True)
    (note,) = [n for n in write_weights(weights, tmp_path / "a.pth", format=format).notes if "torch file" in n]
    flags = re.findall(r"--option (\w+=\w+)", note)
    assert flags == ["use_postln=false", "normalize_modulator=true"][format == "timm" :]
    assert read_weights(tmp_path / "a.pth", options=check_options(flags)).config == weights.config
    with pytest.raises(UserError) as refused:
        read_weights(tmp_path / "a.pth")
    asked = [flag.partition("=")[0] for flag in flags]
    assert re.findall(r"--option (\w+)=false", str(refused.value)) == asked  # the message names all of them


def write_without_torch(path, tensors, *, nested, metadata):
    safetensors.numpy.save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, path)


def test_the_note_on_a_timm_file_says_how_to_build_its_model(tmp_path):
    path, weights = tmp_path / "a.safetensors", weights_of(num_classes=2)
    (note,) = [note for note in write_weights(weights, path, format="timm").notes if "timm" in note]
    call = re.search(r"timm\.models\.focalnet\.FocalNet\((.*)\)$", note)[1]
    arguments = {word.arg: ast.literal_eval(word.value) for word in ast.parse(f"f({call})").body[0].value.keywords}
    assert arguments.pop("num_classes") == 2
    write_weights(weights, tmp_path / "folder", format="timm")
    assert arguments == json.loads((tmp_path / "folder/config.json").read_text())["model_args"]


def test_equal_weights_make_equal_bytes_whatever_the_file_says_about_them(tmp_path):
    names = ("caf\u00e9", "\N{DOG}", 'a "quoted" \\ name', "\x01\t\x7f", "\u2028")
    weights = dataclasses.replace(weights_of(num_classes=5, use_postln=True), info=WeightsInfo(classes=names))
    paths = [
        tmp_path / f"{number}.safetensors" for number in range(8)
    ]  # 6 orders of 3 metadata entries: 8 equal orders by chance have probability 1 in 280,000
    for path in paths:
        write_weights(weights, path, format="timm")
    assert len({path.read_bytes() for path in paths}) == 1
    with safetensors.safe_open(paths[0], framework="numpy") as file:
        assert file.metadata()["format"] == "pt"
    assert read_weights(paths[0]).info.classes == names


def test_sizes_where_transformers_pads_are_noted(tmp_path):
    weights = weights_of(num_classes=2)
    for size, count in ((48, 0), (36, 1)):
        write_weights(weights, tmp_path / str(size), format="huggingface", image_size=size)
        found = read_weights(tmp_path / str(size)).decisions
        assert sum(f"{size}x{size} is not a multiple of 8; transformers pads" in text for text in found) == count


def test_an_ablation_is_no_released_variant():
    config = variant_config("focalnet_tiny_srf", num_classes=3, drop_path_rate=0.7)
    assert released_name(config) == "focalnet_tiny_srf"
    for option in ABLATIONS:
        assert released_name(dataclasses.replace(config, **{option: False})) is None
