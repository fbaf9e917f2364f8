"""Files of detectors: read from mmdetection, and written so that mmdetection loads them, with equal outputs."""

import jax
import numpy as np
import pytest
import torch
from flax import nnx

from focalnet_jax import load_model
from focalnet_jax.convert.read_detector import read_detector
from focalnet_jax.convert.write_detector import write_detector
from parity.detector_errors import CLASSES, CONFIG, OPTIONS, pair, their_outputs
from parity.detectors import DETECTORS, build
from parity.measure import photos, relative
from tests.convert.golden_detectors import all_outputs

pytestmark = pytest.mark.filterwarnings("ignore")  # mmdetection's advice about its anchors

FLOAT32 = 1e-5  # float32 on both sides, summed in different orders, as in test_detectors.py
NAMES = tuple(f"kind {number}" for number in range(CLASSES))
CFG = "model = dict(data_preprocessor=dict(type='DetDataPreprocessor', mean=[51, 102, 153], std=[51, 51, 51]))"
METAS = {"2.x": {"CLASSES": NAMES, "epoch": 12}, "3.x": {"dataset_meta": {"classes": NAMES}, "epoch": 12, "cfg": CFG}}
IMAGES = photos(97, 130)


@pytest.fixture(scope="module", params=DETECTORS)
def name(request):
    return request.param


def their_arrays(name, model):
    """Returns the outputs of a detector of mmdetection for `IMAGES`, in evaluation."""
    with torch.no_grad():
        return [each.detach().numpy() for each in their_outputs(name, model.eval(), IMAGES)]


@pytest.fixture(scope="module")
def expected(name):
    """Mmdetection's outputs for `IMAGES`."""
    return their_arrays(name, pair(name)[0])


@pytest.fixture(scope="module")
def files(name, tmp_path_factory):
    """Files with the metadata of versions 2 and 3 of mmdetection."""
    folder, state = tmp_path_factory.mktemp("files"), pair(name)[0].state_dict()
    for version, meta in METAS.items():
        torch.save({"meta": meta, "message_hub": {"log": 1}, "state_dict": state}, folder / f"{version}.pth")
    return folder


def outputs_of(model):
    graph, state = nnx.split(model)
    return jax.jit(lambda state, images: all_outputs(nnx.merge(graph, state), images))(state, IMAGES)


def test_a_file_of_mmdetection_gives_its_outputs(name, files, expected):
    weights = read_detector(files / "2.x.pth")
    assert weights.info.classes == NAMES
    assert weights.head.name == name
    assert weights.config.focal_windows == CONFIG.focal_windows
    found = outputs_of(load_model(files / "2.x.pth"))
    assert len(found) == len(expected)
    assert max(relative(mine, theirs) for mine, theirs in zip(found, expected, strict=True)) < FLOAT32


def test_weights_for_blue_first_in_a_file_of_version_3_are_turned_for_red_first(files):
    weights = read_detector(files / "3.x.pth")
    assert weights.info.classes == NAMES
    assert weights.info.preprocessing.normalization.mean == (0.6, 0.4, 0.2)
    plain = read_detector(files / "2.x.pth").params["backbone"]["patch_embed"]["proj"]["kernel"]
    found = weights.params["backbone"]["patch_embed"]["proj"]["kernel"]
    np.testing.assert_array_equal(found, plain[:, :, ::-1])


def test_a_written_file_is_loaded_strictly_by_mmdetection(name, files, expected, tmp_path):
    write_detector(read_detector(files / "2.x.pth"), tmp_path / "ours.pth", format="mmdet")
    content = torch.load(tmp_path / "ours.pth", weights_only=True)
    assert content["meta"]["CLASSES"] == content["meta"]["dataset_meta"]["classes"] == NAMES
    other = build(name, CONFIG, CLASSES, seed=1, **OPTIONS[name])
    other.load_state_dict(content["state_dict"], strict=True)
    for mine, theirs in zip(their_arrays(name, other), expected, strict=True):
        np.testing.assert_array_equal(mine, theirs)
