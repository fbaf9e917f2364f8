"""Class names, preprocessing and input sizes in files are read, and kept by conversions."""

import dataclasses
import json

import pytest
import safetensors.numpy

from focalnet_jax.convert.adapt import adapt
from focalnet_jax.convert.huggingface import transformers_config
from focalnet_jax.convert.weights import read_weights
from focalnet_jax.convert.write import write_weights
from focalnet_jax.data.class_lists import class_list
from focalnet_jax.data.digits_source import DigitsSource
from focalnet_jax.model import variant_config
from focalnet_jax.programs.config_files import load_config
from focalnet_jax.training.evaluate_checkpoint import evaluate_checkpoint
from focalnet_jax.training.run import set_up
from tests.commands import SMALL
from tests.convert.golden_files import GOLDEN, OPTIONS, in_a_directory


def test_what_a_huggingface_directory_states_is_kept_by_conversions(tmp_path):
    names = ["rose", "tulip", "daisy", "lily", "iris"]
    labels = {str(index): name for index, name in enumerate(names)}
    source = in_a_directory(tmp_path / "model", id2label=labels, image_size=384, drop_path_rate=0.2)
    write_weights(read_weights(source), tmp_path / "again", format="huggingface")
    stated = json.loads((tmp_path / "again" / "config.json").read_text())
    assert (stated["id2label"], stated["image_size"], stated["drop_path_rate"]) == (labels, 384, 0.2)
    # a config.json of something else next to the weights is ignored
    (source / "config.json").write_text(json.dumps({"model_type": "swin", "normalize_modulator": True}))
    assert not read_weights(source, options=OPTIONS["huggingface_srf"]).config.normalize_modulator


def test_a_huggingface_directory_names_the_imagenet_classes(tmp_path):
    labels = transformers_config(variant_config("focalnet_tiny_srf"), 224)["id2label"]
    assert labels["0"] == "tench, Tinca tinca"
    assert len(set(labels.values())) == 1000
    weights = read_weights(GOLDEN / "huggingface_srf.safetensors", options=OPTIONS["huggingface_srf"])
    write_weights(weights, tmp_path / "model", format="huggingface")
    assert json.loads((tmp_path / "model" / "config.json").read_text())["id2label"]["4"] == "LABEL_4"
    own = transformers_config(variant_config("focalnet_tiny_srf", num_classes=3), 224, ["cat", "dog"])["id2label"]
    assert own == {"0": "cat", "1": "dog", "2": "LABEL_2"}  # an output that the data do not use
    synsets = [synset for synset, _ in class_list(1000)]
    assert transformers_config(variant_config("focalnet_tiny_srf"), 224, synsets)["id2label"] == labels
    assert {entry.name for entry in (tmp_path / "model").iterdir()} == {
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    }


def test_labels_and_preprocessing_are_kept_in_whatever_order_they_are_listed(tmp_path):
    names = ["rose", "tulip", "daisy", "lily", "iris"]
    listed = {str(index): names[index] for index in (3, 0, 4, 1, 2)}
    source = in_a_directory(tmp_path / "model", id2label=listed, image_size=[384, 384])
    preprocessing = {
        "image_mean": [0.5] * 3,
        "size": {"shortest_edge": 400},
        "crop_size": {"height": 384, "width": 384},
    }
    (source / "preprocessor_config.json").write_text(json.dumps(preprocessing))
    write_weights(read_weights(source), tmp_path / "again", format="huggingface")
    stated = json.loads((tmp_path / "again" / "config.json").read_text())
    assert [stated["id2label"][str(index)] for index in range(5)] == names
    assert stated["image_size"] == 384
    assert json.loads((tmp_path / "again" / "preprocessor_config.json").read_text()) == preprocessing
    # at a different size, the crop covers the same fraction
    write_weights(read_weights(source), tmp_path / "other", format="huggingface", image_size=192)
    other = json.loads((tmp_path / "other" / "preprocessor_config.json").read_text())
    assert (other["size"]["shortest_edge"], other["crop_size"]["height"]) == (192 * 400 // 384, 192)
    # a checkpoint of this package keeps everything
    write_weights(read_weights(source), tmp_path / "checkpoint", format="orbax")
    write_weights(read_weights(tmp_path / "checkpoint"), tmp_path / "back", format="huggingface")
    for file in ("config.json", "preprocessor_config.json"):
        assert (tmp_path / "back" / file).read_text() == (tmp_path / "again" / file).read_text()


def test_a_runs_directory_states_its_own_input_size(finished, tmp_path):
    workdir, _ = finished
    write_weights(read_weights(workdir), tmp_path / "model", format="huggingface")
    assert json.loads((tmp_path / "model" / "config.json").read_text())["image_size"] == 16
    stated = json.loads((tmp_path / "model" / "preprocessor_config.json").read_text())
    assert (stated["size"]["shortest_edge"], stated["crop_size"]["width"]) == (16, 16)


def test_weights_with_the_same_classes_in_another_order_are_evaluated_and_trained_on_by_their_names(finished, tmp_path):
    workdir, _ = finished
    write_weights(read_weights(workdir), tmp_path / "model", format="huggingface")
    file = tmp_path / "model" / "config.json"
    stated = json.loads(file.read_text())
    names = [stated["id2label"][str(index)] for index in range(10)]
    config = load_config("configs/quickstart.py", SMALL[1:])
    expected = evaluate_checkpoint(config, str(workdir))

    def name(names):
        stated["id2label"] = {str(index): name for index, name in enumerate(names)}
        stated["label2id"] = {name: index for index, name in enumerate(names)}
        file.write_text(json.dumps(stated))

    name(names[::-1])
    weights = read_weights(tmp_path / "model")
    for leaf in ("kernel", "bias"):
        weights.params["head"][leaf] = weights.params["head"][leaf][..., ::-1]
    write_weights(weights, tmp_path / "checkpoint", format="orbax")
    write_weights(weights, tmp_path / "reversed", format="huggingface")
    for path in ("reversed", "reversed/model.safetensors", "checkpoint"):
        result = evaluate_checkpoint(config, str(tmp_path / path))
        assert (result["top1"], result["top5"]) == (expected["top1"], expected["top5"])
        assert result["loss"] == pytest.approx(expected["loss"], rel=1e-5)  # summed in a different order
    from_there = load_config("configs/quickstart.py", [*SMALL[1:], f"--config.init_from={tmp_path / 'checkpoint'}"])
    source = set_up(from_there, tmp_path / "run").train_data.source
    assert source.class_names == tuple(names[::-1])
    assert source[0][1] == 9 - DigitsSource("train")[0][1]
    name([f"digit {name}" for name in names])  # different words, so the digits must be numbers of outputs
    assert evaluate_checkpoint(config, str(tmp_path / "model"))["top1"] == expected["top1"]


def test_a_config_that_leaves_out_its_defaults_is_read(tmp_path):
    source = in_a_directory(tmp_path / "model")
    stated = json.loads((source / "config.json").read_text())
    for key in ("focal_levels", "focal_windows", "mlp_ratio", "embed_dim", "id2label", "image_size"):
        del stated[key]  # like save_pretrained, which leaves out defaults
    (source / "config.json").write_text(json.dumps(stated))
    assert read_weights(source).config.levels == (2, 2)


def test_a_fresh_classifier_has_no_names_whatever_way_it_goes(tmp_path):
    weights = read_weights(GOLDEN / "timm_lrf.safetensors", options=OPTIONS["timm_lrf"])
    fresh = adapt(weights, dataclasses.replace(weights.config, num_classes=1000), head="drop")
    write_weights(fresh, tmp_path / "checkpoint", format="orbax")
    write_weights(read_weights(tmp_path / "checkpoint"), tmp_path / "model", format="huggingface")
    assert json.loads((tmp_path / "model" / "config.json").read_text())["id2label"]["0"] == "LABEL_0"


def test_a_backbone_with_labels_and_defaults_four_stages_long_is_read(tmp_path):
    source = in_a_directory(tmp_path / "model", focal_windows=[3] * 4, focal_levels=[2] * 4)
    tensors = safetensors.numpy.load_file(source / "model.safetensors")
    backbone = {
        name.removeprefix("focalnet."): value for name, value in tensors.items() if not name.startswith("classifier")
    }
    safetensors.numpy.save_file(backbone, source / "model.safetensors")
    weights = read_weights(source)
    assert (weights.config.num_classes, weights.info.classes) == (0, None)
