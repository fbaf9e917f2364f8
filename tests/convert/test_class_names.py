"""Class names that trainers store in a weights file are used for its outputs; other lists of names are not."""

import dataclasses
import json
import warnings

import numpy as np
import pytest
import safetensors.numpy

from focalnet_jax.convert.info import WeightsInfo
from focalnet_jax.convert.weights import read_weights
from focalnet_jax.convert.write import write_weights
from focalnet_jax.data.labels import classes_of, match_classes
from focalnet_jax.errors import UserError
from focalnet_jax.inference import load_classifier
from tests.commands import convert
from tests.convert.golden_files import GOLDEN, OPTIONS
from tests.convert.torch_writer import Call, save, save_legacy

TENSORS = safetensors.numpy.load_file(GOLDEN / "timm_lrf.safetensors")
COUNT = len(TENSORS["head.fc.bias"])
NAMES = tuple(sorted(map(str, range(8, 8 + COUNT))))  # in torchvision's order of folders: "10" before "8"
TO_INDEX = {name: number for number, name in enumerate(NAMES)}


def attribute_dict(**entries):
    return Call("lightning.fabric.utilities.data AttributeDict", entries=entries)


PLACES = {
    "class_to_idx": {"model": TENSORS, "class_to_idx": dict(reversed(TO_INDEX.items()))},
    "idx_to_class": {"model": TENSORS, "idx_to_class": dict(enumerate(NAMES))},
    "classes": {"net": TENSORS, "classes": list(NAMES)},
    "mmpretrain": {"state_dict": TENSORS, "meta": {"dataset_meta": {"classes": NAMES, "palette": [1, 2]}}},
    "mmcls": {"state_dict": TENSORS, "meta": {"CLASSES": NAMES, "epoch": 3}},
    "lightning": {"state_dict": TENSORS, "hyper_parameters": attribute_dict(class_names=list(NAMES), lr=0.1)},
    "ordered": {"model": TENSORS, "class_to_idx": Call("collections OrderedDict", entries=TO_INDEX)},
    "text": {"model": TENSORS, "id2label": {str(number): name for number, name in enumerate(NAMES)}},
}


def read(path):
    return read_weights(path, options=OPTIONS["timm_lrf"])


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("write", [save, save_legacy])
def test_class_names_in_a_torch_file_name_its_outputs(place, write, tmp_path):
    weights = read(write(PLACES[place], tmp_path / "weights.pth"))
    assert weights.info.classes == NAMES
    assert not weights.info.exact
    assert any(note.startswith("class names from ") for note in weights.notes)
    assert not any("class names" in decision for decision in weights.decisions)  # no warning


@pytest.mark.parametrize(
    "metadata",
    [{"class_names": json.dumps(NAMES)}, {"class_to_idx": json.dumps(TO_INDEX)}, {"classes": ", ".join(NAMES)}],
)
def test_class_names_in_the_metadata_of_safetensors_name_its_outputs(metadata, tmp_path):
    safetensors.numpy.save_file(TENSORS, tmp_path / "weights.safetensors", metadata=metadata)
    assert read(tmp_path / "weights.safetensors").info.classes == NAMES


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("preprocessor_config.json", {"size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 32}}),
        ("config.json", {"architecture": "focalnet_tiny_lrf", "pretrained_cfg": {"input_size": [3, 32, 32]}}),
    ],
)
def test_class_names_in_this_packages_metadata_are_kept_next_to_a_file_without_names(file, content, tmp_path):
    named = dataclasses.replace(read(GOLDEN / "timm_lrf.safetensors"), info=WeightsInfo(NAMES, exact=True, words=NAMES))
    write_weights(named, tmp_path / "weights.safetensors", format="timm")
    (tmp_path / file).write_text(json.dumps(content))
    info = read(tmp_path / "weights.safetensors").info
    assert info.preprocessing.size == (32, 32)  # the file is read
    assert (info.classes, info.exact, info.words) == (NAMES, True, NAMES)


def test_numeric_classes_of_the_data_are_matched_by_the_names_in_the_file(tmp_path):
    weights = read(save(PLACES["class_to_idx"], tmp_path / "weights.pth"))
    classes = classes_of(COUNT, weights.info.classes, "weights.pth")
    by_number = sorted(NAMES, key=int)
    found = match_classes(by_number, classes, outputs=COUNT, data="val", classifier="weights.pth").outputs
    assert found.tolist() == [NAMES.index(name) for name in by_number]


def test_a_thousand_names_of_ones_own_are_not_imagenets(tmp_path):
    width = TENSORS["head.fc.weight"].shape[1]
    head = {"head.fc.weight": np.zeros((1000, width), np.float32), "head.fc.bias": np.zeros(1000, np.float32)}
    names = tuple(f"part {number}" for number in range(1000))
    weights = read(save({"model": TENSORS | head, "classes": names}, tmp_path / "weights.pth"))
    classes = classes_of(1000, weights.info.classes, "weights.pth")
    assert classes.names == names
    with pytest.raises(UserError, match="lacks: n01440764"):
        match_classes(["n01440764"], classes, outputs=1000, data="val", classifier="weights.pth")


@pytest.mark.parametrize(
    "entry",
    [
        {"classes": list(NAMES[1:])},  # of a different classifier
        {"classes": [*NAMES[1:], 3]},
        {"class_to_idx": TO_INDEX | {NAMES[0]: 1}},
        {"class_to_idx": {name: number + 1 for name, number in TO_INDEX.items()}},
        {"id2label": {number: f"LABEL_{number}" for number in range(COUNT)}},
        {"columns": list(NAMES)},
        {"classes": COUNT},
    ],
)
def test_entries_that_cannot_be_the_names_of_the_outputs_are_ignored(entry, tmp_path):
    assert read(save({"model": TENSORS, **entry}, tmp_path / "weights.pth")).info.classes is None


def test_different_lists_in_a_file_are_all_ignored_with_a_warning(tmp_path):
    content = PLACES["classes"] | {"class_names": [f"other {name}" for name in NAMES]}
    path = save(content, tmp_path / "weights.pth")
    with pytest.warns(UserWarning, match="classes and class_names in the file give different names to its"):
        classifier = load_classifier(path, options=OPTIONS["timm_lrf"])
    assert classifier.labels == tuple(f"LABEL_{number}" for number in range(COUNT))


def test_the_names_are_carried_through_conversions(tmp_path):
    path = save(PLACES["mmpretrain"], tmp_path / "weights.pth")
    options = [f"--option={key}={str(value).lower()}" for key, value in OPTIONS["timm_lrf"].items()]
    for name, format in (("hf", "huggingface"), ("run", "orbax"), ("timm.safetensors", "timm")):
        done = convert(path, tmp_path / name, "--to", format, *options)
        assert done.returncode == 0, done.stderr
        assert "class names from meta.dataset_meta.classes in the file" in done.stdout + done.stderr
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert load_classifier(tmp_path / name, options=OPTIONS["timm_lrf"]).labels == NAMES
