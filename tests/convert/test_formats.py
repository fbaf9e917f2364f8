"""Weights of timm and transformers give the same numbers here, and go from format to format without losing a bit."""

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from flax import nnx

import focalnet_jax
from focalnet_jax.convert.files import read_tensors, sha256
from focalnet_jax.convert.huggingface import model_config
from focalnet_jax.convert.mapping import entries, to_ours
from focalnet_jax.convert.weights import read_weights
from focalnet_jax.convert.write import write_weights
from focalnet_jax.data.class_lists import class_list
from focalnet_jax.errors import UserError
from focalnet_jax.model import list_models, variant_config
from focalnet_jax.paths import named_leaves

GOLDEN = Path(__file__).parent / "golden"
INDEX = "model.safetensors.index.json"
# What shapes do not tell and no variant's name does for these small models.
OPTIONS = {
    "timm_lrf": dict(use_postln=False, normalize_modulator=False),
    "timm_fl4": dict(use_postln=True, normalize_modulator=True),
    "huggingface_srf": dict(use_postln=False, normalize_modulator=False),
    "huggingface_huge": dict(use_postln=True, normalize_modulator=False),
}


def relative(ours, theirs):
    return np.linalg.norm(np.asarray(ours) - theirs) / np.linalg.norm(theirs)


@pytest.mark.parametrize("name", OPTIONS)
def test_logits_features_and_gradients_are_those_of_pytorch(name):
    model = focalnet_jax.load_model(GOLDEN / f"{name}.safetensors", **OPTIONS[name])
    golden = np.load(GOLDEN / f"{name}.npz")
    # float32 on both sides, summed in another order
    assert relative(model(golden["images"]), golden["logits"]) < 1e-5
    for index, maps in enumerate(model.features(golden["images"])):
        assert relative(maps, golden[f"features{index}"]) < 1e-5
    graph, params = nnx.split(model)

    def loss(params):
        return optax.softmax_cross_entropy(nnx.merge(graph, params)(golden["images"]), golden["targets"]).mean()

    loss_gradient = jax.grad(loss)
    quick = {"xla_backend_optimization_level": 0}  # most of a single evaluation is compilation
    gradients = jax.jit(loss_gradient, compiler_options=quick)(nnx.to_pure_dict(params))
    theirs = to_ours(read_tensors(GOLDEN / f"{name}.gradients.safetensors"), model.config, name.split("_")[0])
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
def test_every_table_covers_every_variant_exactly_once(name, format):
    covered = entries(variant_config(name), format)
    assert len({entry.theirs for entry in covered}) == len(covered)


def shapes_of(name, format):
    return {entry.theirs: entry.shape for entry in entries(variant_config(name), format)}


@pytest.mark.parametrize("name", list_models())
@pytest.mark.parametrize("format", ["microsoft", "timm", "huggingface"])
def test_every_variant_is_recognised_by_its_shapes(name, format):
    from focalnet_jax.convert.recognise import recognise, recognise_format

    shapes = shapes_of(name, format)
    assert recognise_format({f"module.{key}": shape for key, shape in shapes.items()}) == (format, "module.")
    found = recognise(shapes, format=format)
    assert found.name == name
    # what a file does not hold is the variant's
    assert found.config == variant_config(name)


def test_files_that_do_not_fit_are_refused_in_one_line_and_nothing_is_written(tmp_path):
    import safetensors.numpy

    source = GOLDEN / "timm_lrf.safetensors"
    tensors = safetensors.numpy.load_file(source)

    def refused(told, changed=None, path=None, **options):
        path = path or tmp_path / "changed.safetensors"
        if changed is not None:
            safetensors.numpy.save_file(changed, path)
        with pytest.raises(UserError) as caught:
            read_weights(path, **({"options": OPTIONS["timm_lrf"]} | options))
        assert told in str(caught.value)
        assert "\n" not in str(caught.value)

    refused("missing norm.bias", {key: value for key, value in tensors.items() if key != "norm.bias"})
    refused("not used surplus", tensors | {"surplus": np.zeros(3, np.float32)})
    refused("expected (8,)", tensors | {"stem.norm.bias": np.zeros(9, np.float32)})
    refused("stem.norm.bias is I64", tensors | {"stem.norm.bias": np.zeros(8, np.int64)})
    refused("no FocalNet weights", {"weight": np.zeros(3, np.float32)})
    refused("not the weights of focalnet_tiny_lrf: embed_dim", tensors, name="focalnet_tiny_lrf")
    refused("name the model", tensors, options={})
    (tmp_path / "changed.safetensors").write_bytes(source.read_bytes()[:-100])
    refused("damaged")
    (tmp_path / "changed.safetensors").write_bytes(b"<html>")
    refused("damaged")
    refused("weights file at", path=tmp_path / "nowhere.safetensors")
    before = sha256(source)
    weights = read_weights(source, options=OPTIONS["timm_lrf"])
    for destination, format in (("out", "timm"), ("out.safetensors", "huggingface")):
        with pytest.raises(UserError, match="writes a"):
            write_weights(weights, tmp_path / destination, format=format)
    write_weights(weights, tmp_path / "out.safetensors", format="timm")
    with pytest.raises(UserError, match="exists already"):
        write_weights(weights, tmp_path / "out.safetensors", format="timm")
    assert {entry.name for entry in tmp_path.iterdir()} == {"changed.safetensors", "out.safetensors"}
    assert sha256(source) == before


def in_a_directory(folder, **config):
    """A Hugging Face directory of the golden weights whose config.json states other things."""
    weights = read_weights(GOLDEN / "huggingface_srf.safetensors", options=OPTIONS["huggingface_srf"])
    write_weights(weights, folder, format="huggingface")
    stated = json.loads((folder / "config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps(stated))
    return folder


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"normalize_modulator": "false"}, "normalize_modulator is 'false'; expected bool"),
        ({"depths": [2, 2]}, "depths is (2, 2), the tensors beside it have (1, 2)"),
        ({"use_layerscale": True}, "use_layerscale is True"),
        ({"hidden_act": "relu"}, "computes gelu only"),
        ({"layer_norm_eps": 1e-12}, "layer_norm_eps=1e-12"),
        ({"id2label": {"0": "cat"}}, "names 1 classes"),
    ],
)
def test_a_config_that_is_not_the_weights_is_refused(config, told, tmp_path):
    with pytest.raises(UserError, match=re.escape(told)):
        read_weights(in_a_directory(tmp_path / "model", **config))


def test_what_a_huggingface_directory_states_goes_on_to_the_next(tmp_path):
    names = ["rose", "tulip", "daisy", "lily", "iris"]
    labels = {str(index): name for index, name in enumerate(names)}
    source = in_a_directory(tmp_path / "model", id2label=labels, image_size=384, drop_path_rate=0.2)
    write_weights(read_weights(source), tmp_path / "again", format="huggingface")
    stated = json.loads((tmp_path / "again" / "config.json").read_text())
    assert (stated["id2label"], stated["image_size"], stated["drop_path_rate"]) == (labels, 384, 0.2)
    # a configuration of something else beside the weights says nothing about them
    (source / "config.json").write_text(json.dumps({"model_type": "swin", "normalize_modulator": True}))
    assert not read_weights(source, options=OPTIONS["huggingface_srf"]).config.normalize_modulator


DAMAGED = [(name, text) for name in ("config.json", INDEX) for text in ("[]", "null", "{", "\udcff")]
NO_INDEX = [(INDEX, text) for text in ('{"weight_map": {"a": 5}}', '{"weight_map": []}', "{}")]


@pytest.mark.parametrize(("name", "content"), [*DAMAGED, *NO_INDEX])
def test_damaged_json_is_one_line(name, content, tmp_path):
    source = in_a_directory(tmp_path / "model")
    (source / name).write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(UserError, match=r"damaged|no index"):
        read_weights(source, options=OPTIONS["huggingface_srf"])


def test_options_and_keys_that_disagree_are_refused(tmp_path):
    import safetensors.numpy

    source = GOLDEN / "timm_lrf.safetensors"
    with pytest.raises(UserError, match="use_postln=True was given, and the names"):
        read_weights(source, options={"use_postln": True, "normalize_modulator": False})
    weights = read_weights(source, options=OPTIONS["timm_lrf"])
    write_weights(weights, tmp_path / "checkpoint", format="orbax")
    with pytest.raises(UserError, match="normalize_modulator=True was given"):
        read_weights(tmp_path / "checkpoint", options={"normalize_modulator": True})
    with pytest.raises(UserError, match="no released variant, not focalnet_tiny_lrf"):
        read_weights(tmp_path / "checkpoint", name="focalnet_tiny_lrf")
    tensors = safetensors.numpy.load_file(source)
    changed = {
        "prefixed": {f"module.{name}": value for name, value in tensors.items()} | {"surplus": np.zeros(3, np.float32)},
        "flat": tensors | {"layers.0.blocks.0.mlp.fc1.weight": np.zeros(8, np.float32)},
        "far": tensors | {"layers.0.blocks.300000000.norm2.weight": np.zeros(8, np.float32)},
    }
    for name, told in {"prefixed": "not used surplus", "flat": "expected 4 axes", "far": "numbered up to"}.items():
        safetensors.numpy.save_file(changed[name], tmp_path / f"{name}.safetensors")
        with pytest.raises(UserError, match=told):
            read_weights(tmp_path / f"{name}.safetensors", options=OPTIONS["timm_lrf"])


def test_nothing_stays_behind_where_writing_fails(tmp_path):
    weights = read_weights(GOLDEN / "timm_lrf.safetensors", options=OPTIONS["timm_lrf"])
    weights.params["norm"]["bias"][0] = 1e6
    with pytest.raises(UserError, match="cannot hold"):
        write_weights(weights, tmp_path / "new" / "folder" / "half.safetensors", format="timm", dtype="float16")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot write"):
        write_weights(weights, tmp_path / "file" / "out.safetensors", format="timm")
    with pytest.raises(UserError, match="cannot write"):
        write_weights(weights, tmp_path / ("x" * 300 + ".safetensors"), format="timm")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
    wide = dataclasses.replace(weights, config=dataclasses.replace(weights.config, focal_factor=4))
    with pytest.raises(UserError, match="focal factor of 2"):
        write_weights(wide, tmp_path / "out.safetensors", format="timm")


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path):
    weights = read_weights(GOLDEN / "timm_lrf.safetensors", options=OPTIONS["timm_lrf"])
    write_weights(weights, tmp_path / "whole", format="orbax")
    for format, name in (("timm", "x.safetensors"), ("huggingface", "hf"), ("orbax", "checkpoint")):
        arguments = [sys.executable, "-m", "focalnet_jax.convert", tmp_path / "whole", tmp_path / name, "--to", format]
        # files of at most 8 KB stand for a full disk
        limited = ["bash", "-c", 'ulimit -f 8; exec "$@"', "bash", *arguments]
        done = subprocess.run(limited, capture_output=True, text=True, timeout=120)
        assert done.returncode == 2
        assert done.stderr.startswith("error: cannot write")
        assert len(done.stderr.splitlines()) == 1, done.stderr
    assert [entry.name for entry in tmp_path.iterdir()] == ["whole"]


def test_mixed_precision_is_written_only_in_a_stated_type_that_holds_it(tmp_path):
    import safetensors.numpy

    tensors = safetensors.numpy.load_file(GOLDEN / "timm_lrf.safetensors")
    mixed = tensors | {"norm.bias": tensors["norm.bias"].astype(np.float16)}
    safetensors.numpy.save_file(mixed, tmp_path / "mixed.safetensors")
    weights = read_weights(tmp_path / "mixed.safetensors", options=OPTIONS["timm_lrf"])
    with pytest.raises(UserError, match="float16 and float32: say by --dtype"):
        write_weights(weights, tmp_path / "out.safetensors", format="timm")
    assert write_weights(weights, tmp_path / "out.safetensors", format="timm", dtype="float32").notes == (
        "cast from float16 and float32 to float32",
    )
    safetensors.numpy.save_file(tensors | {"norm.bias": tensors["norm.bias"] * 1e6}, tmp_path / "big.safetensors")
    weights = read_weights(tmp_path / "big.safetensors", options=OPTIONS["timm_lrf"])
    with pytest.raises(UserError, match=r"norm.bias reaches .*float16 cannot hold"):
        write_weights(weights, tmp_path / "half.safetensors", format="timm", dtype="float16")
    assert not (tmp_path / "half.safetensors").exists()


def test_shards_are_read_as_one_file(tmp_path):
    import safetensors.numpy

    tensors = safetensors.numpy.load_file(GOLDEN / "huggingface_srf.safetensors")
    names = list(tensors)
    owner = {name: f"model-{1 + (index % 2)}.safetensors" for index, name in enumerate(names)}
    for shard in set(owner.values()):
        part = {name: tensors[name] for name in names if owner[name] == shard}
        safetensors.numpy.save_file(part, tmp_path / shard)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": owner}))
    options = OPTIONS["huggingface_srf"]
    for path in (index, tmp_path):  # an index, and a directory that has one
        params = named_leaves(read_weights(path, options=options).params)
        for name, value in named_leaves(
            read_weights(GOLDEN / "huggingface_srf.safetensors", options=options).params
        ).items():
            np.testing.assert_array_equal(params[name], value)
    (tmp_path / "model-2.safetensors").unlink()
    with pytest.raises(UserError, match=r"model-2.safetensors, which is not beside it"):
        read_weights(index, options=options)
    index.write_text("{}")
    with pytest.raises(UserError, match="no index of shards"):
        read_weights(index, options=options)


def test_a_torch_file_without_torch_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # as if it were not installed
    (tmp_path / "weights.pth").write_bytes(b"PK")
    weights = read_weights(GOLDEN / "timm_lrf.safetensors", options=OPTIONS["timm_lrf"])
    for use in (
        lambda: read_weights(tmp_path / "weights.pth"),
        lambda: write_weights(weights, tmp_path / "new.pth", format="timm"),
    ):
        with pytest.raises(UserError, match="pip install torch"):
            use()
    assert [entry.name for entry in tmp_path.iterdir()] == ["weights.pth"]


def test_half_precision_files_are_kept_or_cast(tmp_path):
    weights = read_weights(GOLDEN / "timm_lrf.safetensors", options=OPTIONS["timm_lrf"])
    write_weights(weights, tmp_path / "half.safetensors", format="timm", dtype="bfloat16")
    half = read_weights(tmp_path / "half.safetensors", options=OPTIONS["timm_lrf"])
    assert half.dtype == "bfloat16"
    assert {leaf.dtype for leaf in named_leaves(half.params).values()} == {np.dtype("float32")}
    write_weights(half, tmp_path / "again.safetensors", format="timm")
    assert sha256(tmp_path / "again.safetensors") == sha256(tmp_path / "half.safetensors")


def test_a_huggingface_directory_names_the_imagenet_classes(tmp_path):
    labels = model_config(variant_config("focalnet_tiny_srf"), 224)["id2label"]
    assert labels["0"] == "tench, Tinca tinca"
    assert len(set(labels.values())) == 1000
    weights = read_weights(GOLDEN / "huggingface_srf.safetensors", options=OPTIONS["huggingface_srf"])
    write_weights(weights, tmp_path / "model", format="huggingface")
    assert json.loads((tmp_path / "model" / "config.json").read_text())["id2label"]["4"] == "LABEL_4"
    own = model_config(variant_config("focalnet_tiny_srf", num_classes=3), 224, ["cat", "dog"])["id2label"]
    assert own == {"0": "cat", "1": "dog", "2": "LABEL_2"}  # an output the data does not use
    synsets = [synset for synset, _ in class_list(1000)]
    assert model_config(variant_config("focalnet_tiny_srf"), 224, synsets)["id2label"] == labels
    assert {entry.name for entry in (tmp_path / "model").iterdir()} == {
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    }
