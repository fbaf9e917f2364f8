"""If weights cannot be read, the command ends with a one-line error and leaves no files."""

import dataclasses
import json
import re

import numpy as np
import pytest
import safetensors.numpy

from focalnet_jax.checkpoint.weights import save_params
from focalnet_jax.convert.checkpoint_metadata import checkpoint_info
from focalnet_jax.convert.files import sha256
from focalnet_jax.convert.info import WeightsInfo
from focalnet_jax.convert.load import load_into
from focalnet_jax.convert.weights import read_weights
from focalnet_jax.convert.write import write_weights
from focalnet_jax.errors import UserError
from focalnet_jax.model.variants import model_metadata
from focalnet_jax.parameters import named_leaves
from tests.commands import convert
from tests.convert.golden_files import GOLDEN, INDEX, OPTIONS, in_a_directory
from tests.convert.random_weights import weights_of
from tests.convert.test_adapt import on_one_device


def test_files_that_do_not_fit_are_refused_in_one_line_and_nothing_is_written(tmp_path):
    source = GOLDEN / "timm_lrf.safetensors"
    tensors = safetensors.numpy.load_file(source)

    def refused(message, changed=None, path=None, **options):
        path = path or tmp_path / "changed.safetensors"
        if changed is not None:
            safetensors.numpy.save_file(changed, path)
        with pytest.raises(UserError) as caught:
            read_weights(path, **({"options": OPTIONS["timm_lrf"]} | options))
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)

    refused("missing norm.bias", {key: value for key, value in tensors.items() if key != "norm.bias"})
    refused("not used surplus", tensors | {"surplus": np.zeros(3, np.float32)})
    # every key is listed; keys that differ in a number are listed as a pattern
    blocks = {key: value for key, value in tensors.items() if not key.endswith("modulation.f.bias")}
    refused("missing layers.0.blocks.0.modulation.f.bias (and 2 more layers.*.blocks.*.modulation.f.bias)", blocks)
    refused("expected (8,)", tensors | {"stem.norm.bias": np.zeros(9, np.float32)})
    refused("stem.norm.bias is I64", tensors | {"stem.norm.bias": np.zeros(8, np.int64)})
    refused("no FocalNet weights", {"weight": np.zeros(3, np.float32)})
    refused("not the weights of focalnet_tiny_lrf: embed_dim", tensors, name="focalnet_tiny_lrf")
    refused("do not determine normalize_modulator: give --option normalize_modulator=false, or", tensors, options={})
    (tmp_path / "changed.safetensors").write_bytes(source.read_bytes()[:-100])
    refused("damaged")
    (tmp_path / "changed.safetensors").write_bytes(b"<html>")
    refused("a web page (HTML), not weights")
    refused("weights file at", path=tmp_path / "nowhere.safetensors")
    before = sha256(source)
    weights = read_weights(source, options=OPTIONS["timm_lrf"])
    for destination, format in (
        ("out", "microsoft"),
        ("out.safetensors", "huggingface"),
        ("out.ckpt", "timm"),
        ("out.pkl", "huggingface"),
    ):
        with pytest.raises(UserError, match="writes a"):
            write_weights(weights, tmp_path / destination, format=format)
    write_weights(weights, tmp_path / "out.safetensors", format="timm")
    with pytest.raises(UserError, match="already exists"):
        write_weights(weights, tmp_path / "out.safetensors", format="timm")
    assert {entry.name for entry in tmp_path.iterdir()} == {"changed.safetensors", "out.safetensors"}
    assert sha256(source) == before


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"normalize_modulator": "false"}, "normalize_modulator is 'false'; expected bool"),
        ({"depths": [2, 2]}, "depths is (2, 2) in config.json, but the tensors have (1, 2)"),
        ({"use_layerscale": True}, "use_layerscale is True"),
        ({"hidden_act": "relu"}, "supports only gelu"),
        ({"layer_norm_eps": 1e-12}, "layer_norm_eps=1e-12"),
        ({"id2label": {"0": "cat"}}, "the keys of id2label are 0; expected 0 to 4, one for each class"),
        (
            {"id2label": {str(index): str(index) for index in range(5, 10)}},
            "the keys of id2label are 5, 6, 7, ...; expected 0 to 4",
        ),
        ({"id2label": dict.fromkeys("01234")}, "expected an object with a string for every class"),
        ({"id2label": ["a", "b", "c", "d", "e"]}, "expected an object with a string for every class"),
        ({"image_size": "384"}, "image_size is '384'"),
        ({"image_size": -5}, "image_size is -5"),
        ({"image_size": [384]}, "image_size is [384]"),
        ({"embed_dim": 16}, "embed_dim is 16 in config.json, but the tensors have 8"),
        ({"patch_size": 16}, "patch_size is 16"),
        ({"num_channels": 1}, "in_channels is 1"),
        ({"mlp_ratio": 2.0}, "mlp_ratio is 2.0"),
    ],
)
def test_a_config_that_is_not_the_weights_is_refused(config, message, tmp_path):
    with pytest.raises(UserError, match=re.escape(message)):
        read_weights(in_a_directory(tmp_path / "model", **config))


@pytest.mark.parametrize(("swapped", "count"), [(False, 0), (True, 1)])
def test_class_names_that_contradict_each_other_are_reported(swapped, count, tmp_path):
    names = ["ant", "bee", "cow", "dog", "eel"]
    numbers = {name: number for number, name in enumerate(reversed(names) if swapped else names)}
    folder = in_a_directory(tmp_path / "model", id2label=dict(zip("01234", names, strict=True)), label2id=numbers)
    notes = [note for note in read_weights(folder).decisions if "label2id" in note]
    assert len(notes) == count
    assert not count or "class 0 is 'ant' in id2label, but 'eel' in label2id; id2label is used" in notes[0]
    assert read_weights(folder).info.classes == tuple(names)


def test_weights_that_are_nan_or_infinite_are_counted_in_one_line(tmp_path, capsys):
    weights = weights_of(num_classes=2)
    weights.params["head"]["bias"][0], weights.params["norm"]["scale"][1] = np.nan, np.inf
    for format, name in (("timm", "file.safetensors"), ("orbax", "checkpoint")):
        report = write_weights(weights, tmp_path / name, format=format)
        count = len(named_leaves(weights.params))
        expected = f"2 of {count} arrays contain NaN or infinite values: head/bias, norm/scale"
        assert [note for note in report.notes if "NaN" in note] == [f"warning: {expected}"]
        load_into(str(tmp_path / name), weights.config, on_one_device(weights.config))
        assert capsys.readouterr().err == f"warning: {tmp_path / name}: {expected}\n"


DAMAGED = [(name, text) for name in ("config.json", INDEX) for text in ("[]", "null", "{", "\udcff")]
NO_INDEX = [(INDEX, text) for text in ('{"weight_map": {"a": 5}}', '{"weight_map": []}', "{}")]


@pytest.mark.parametrize(("name", "content"), [*DAMAGED, *NO_INDEX])
def test_damaged_json_is_one_line(name, content, tmp_path):
    source = in_a_directory(tmp_path / "model")
    (source / name).write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(UserError, match=r"damaged|not an index"):
        read_weights(source, options=OPTIONS["huggingface_srf"])


@pytest.mark.parametrize(
    ("stated", "told"),
    [
        ([], "it is []; expected a JSON object"),
        ({"classes": [1, 2, 3, 4, 5]}, "classes is [1, 2, 3, 4, 5]; expected a list with a string for every class"),
        ({"classes": "abcde"}, "classes is 'abcde'; expected"),
        ({"classes": list("abcdefghi")}, "it names 9 classes; the classifier has 5"),
        ({"classes": list("abcde"), "words": ["a cat"]}, "words has 1 entry for 5 classes"),
        ({"words": ["a cat"]}, "words has 1 entry for 0 classes"),
        ({"image_size": "ab"}, "image_size is 'ab'; expected a size in pixels"),
        ({"image_size": [1, 2, 3]}, "image_size is [1, 2, 3]"),
        ({"image_size": True}, "image_size is True"),
        ({"preprocessing": 7}, "preprocessing is 7; expected a JSON object"),
        ({"preprocessor": ["a"]}, "preprocessor is ['a']; expected a JSON object"),
    ],
)
def test_damaged_metadata_of_a_file_is_one_line(stated, told, tmp_path):
    path = tmp_path / "model.safetensors"
    tensors = safetensors.numpy.load_file(GOLDEN / "timm_lrf.safetensors")
    safetensors.numpy.save_file(tensors, path, {"focalnet_jax": json.dumps(stated)})
    with pytest.raises(UserError) as caught:
        read_weights(path, options=OPTIONS["timm_lrf"])
    assert str(caught.value).startswith(f"{path}: its metadata focalnet_jax is damaged: ")
    assert told in str(caught.value)


def test_damaged_metadata_of_a_checkpoint_is_one_line():
    with pytest.raises(UserError, match="the checkpoint's metadata is damaged: classes is 3; expected a list"):
        checkpoint_info({"stated": {"classes": 3}})


@pytest.mark.parametrize("task", ["toy", "classification"])
def test_weights_of_another_task_are_refused_with_its_name(task, tmp_path):
    weights = weights_of()
    metadata = {"model": model_metadata(None, weights.config), "config": {"task": task}}
    save_params(tmp_path / "same", weights.params, metadata)
    assert read_weights(tmp_path / "same").count == weights.count  # its model is a FocalNet with a classifier
    save_params(tmp_path / "run", {"backbone": weights.params, "neck": weights.params["head"]}, metadata)
    with pytest.raises(UserError) as caught:
        read_weights(tmp_path / "run")
    told = (
        "does not fit the model"
        if task == "classification"
        else "is a checkpoint of the task toy, .* of classification$"
    )
    assert re.search(f"^{tmp_path / 'run'} {told}", str(caught.value))
    assert "\n" not in str(caught.value)


def test_errors_of_a_checkpoint_name_it_once(tmp_path):
    write_weights(weights_of(), tmp_path / "step", format="orbax")
    metadata = tmp_path / "step" / "metadata" / "metadata"
    for stated, told in (
        ({}, "the metadata of {} lacks model, which describes the architecture: choose another checkpoint"),
        (
            {"model": {}},
            "{} cannot be read: the checkpoint's description of its model is damaged (KeyError('config')); ",
        ),
        (json.loads(metadata.read_text()) | {"a": 1}, "checkpoint {} is damaged"),
    ):
        metadata.write_text(json.dumps(stated))
        with pytest.raises(UserError) as caught:
            read_weights(tmp_path / "step")
        assert str(caught.value).startswith(told.format(tmp_path / "step"))


def test_outputs_that_no_class_uses_have_no_names_in_a_file(tmp_path):
    weights = read_weights(GOLDEN / "timm_lrf.safetensors", options=OPTIONS["timm_lrf"])
    few = dataclasses.replace(weights, info=WeightsInfo(classes=("cat", "dog", "cow"), exact=True))
    write_weights(few, tmp_path / "model.safetensors", format="timm")
    assert read_weights(tmp_path / "model.safetensors").info == few.info


def test_options_and_keys_that_disagree_are_refused(tmp_path):
    source = GOLDEN / "timm_lrf.safetensors"
    with pytest.raises(UserError, match="use_postln=True was given, but it is False according to the tensors' names"):
        read_weights(source, options={"use_postln": True, "normalize_modulator": False})
    weights = read_weights(source, options=OPTIONS["timm_lrf"])
    write_weights(weights, tmp_path / "checkpoint", format="orbax")
    with pytest.raises(UserError, match="normalize_modulator=True was given"):
        read_weights(tmp_path / "checkpoint", options={"normalize_modulator": True})
    with pytest.raises(UserError, match="no released variant, not focalnet_tiny_lrf"):
        read_weights(tmp_path / "checkpoint", name="focalnet_tiny_lrf")
    tensors = safetensors.numpy.load_file(source)
    changed = {
        "flat": tensors | {"layers.0.blocks.0.mlp.fc1.weight": np.zeros(8, np.float32)},
        "far": tensors | {"layers.0.blocks.3000.norm2.weight": np.zeros(8, np.float32)},
        "beyond": tensors | {f"layers.{'9' * 5000}.blocks.0.norm2.weight": np.zeros(8, np.float32)},
    }
    texts = {
        "flat": "expected 4 axes",
        "far": "block numbers up to",
        "beyond": "not used layers",
    }
    for name, message in texts.items():
        safetensors.numpy.save_file(changed[name], tmp_path / f"{name}.safetensors")
        with pytest.raises(UserError, match=message):
            read_weights(tmp_path / f"{name}.safetensors", options=OPTIONS["timm_lrf"])


def test_an_unknown_variant_is_refused_before_anything_is_read():
    with pytest.raises(UserError, match=r"unknown model 'focalnet_tiny_lrx'\. Did you mean 'focalnet_tiny_lrf'"):
        read_weights("nowhere", name="focalnet_tiny_lrx")


def test_command_lines_that_make_no_sense_are_one_line_and_inputs_stay_as_they_are(tmp_path):
    weights = read_weights(GOLDEN / "huggingface_srf.safetensors", options=OPTIONS["huggingface_srf"])
    step = tmp_path / "step"
    write_weights(weights, step, format="orbax")
    before = sha256(step)
    (tmp_path / "link.safetensors").symlink_to(tmp_path / "nowhere")
    twice = ["--option", "use_postln=true", "--option", "use_postln=false"]
    for arguments, message in (
        ([step, step / "inside.safetensors", "--to", "timm"], "is inside the source"),
        ([step, tmp_path / "out.pth", "--to", "orbax"], "writes a directory"),
        ([step, tmp_path / "out", "--to", "orbax", *twice], "expected each key once"),
        ([step, tmp_path / "out", "--to", "orbax", "--head", "drop", "--num-classes", str(10**12)], "below 10**8"),
        (["a" * 300, tmp_path / "out", "--to", "orbax"], "File name too long"),
        ([step, ".", "--to", "orbax"], "already exists"),
        ([step, "/", "--to", "orbax"], "already exists"),
        ([step, tmp_path / "link.safetensors", "--to", "microsoft"], "already exists"),
        ([step, tmp_path / "out", "--to", "orbax", "--option", "use_postln=true"], "but the checkpoint has False"),
    ):
        done = convert(*arguments)
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
        assert message in done.stderr
    assert sha256(step) == before
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["link.safetensors", "step"]


@pytest.mark.parametrize("value", [10**400, True, "0.5", [0.5]])
def test_a_configuration_with_an_invalid_number_is_refused(tmp_path, value):
    write_weights(weights_of(), tmp_path / "hf", format="huggingface")
    config = tmp_path / "hf" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"mlp_ratio": value}))
    with pytest.raises(UserError, match=r"mlp_ratio is .*expected float"):
        read_weights(tmp_path / "hf")
