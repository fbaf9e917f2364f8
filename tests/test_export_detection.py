"""An exported detector detects what `predict` detects, without this package."""

import re
import subprocess
import sys

import numpy as np
import pytest
from flax import nnx

from focalnet_jax.convert.detectors import DetectorHead, DetectorWeights, abstract_detector
from focalnet_jax.convert.write_detector import write_detector
from focalnet_jax.data.normalization import normalize
from focalnet_jax.data.paste import paste_cutout
from focalnet_jax.errors import UserError
from focalnet_jax.export import export, main
from focalnet_jax.inference import load_predictor
from focalnet_jax.model import FocalNetConfig
from focalnet_jax.parameters import named_leaves, with_leaves
from focalnet_jax.tasks.detection.composites import DigitComposites
from focalnet_jax.tasks.detection.exported import detections_difference
from focalnet_jax.tasks.detection.host import resized_image
from tests.convert.random_weights import DETECTOR_HEADS
from tests.models import with_drawn_parameters

ALONE = """
import sys, numpy, jax.export
exported = jax.export.deserialize(open(sys.argv[1], "rb").read())
given = numpy.load(sys.argv[2])
numpy.savez(sys.argv[3], **exported.call(given["images"], given["sizes"]))
assert not [name for name in sys.modules if name.startswith(("focalnet_jax", "flax"))]
"""


@pytest.fixture(scope="module", params=DETECTOR_HEADS)
def file(request, tmp_path_factory):
    """A file of mmdetection with a small detector whose parameters are random."""
    config = FocalNetConfig(embed_dim=16, depths=(1, 1, 1, 1), focal_levels=2, focal_windows=3, num_classes=3)
    # LayerNorm over a few values amplifies errors.
    head = (DETECTOR_HEADS | {"sparse_rcnn": DetectorHead("sparse_rcnn", 64, hidden=32, proposals=20)})[request.param]
    model = with_drawn_parameters(lambda: nnx.merge(*nnx.split(abstract_detector(config, head))))
    params, statistics = (nnx.to_pure_dict(each) for each in nnx.split(model, nnx.Param, ...)[1:])
    factor = {"mask_rcnn": 6, "cascade_mask_rcnn": 6}.get(request.param, 1)  # else all boxes have nearly equal scores
    enlarged = {name: leaf * (factor if "roi_head" in name else 1) for name, leaf in named_leaves(params).items()}
    params = with_leaves(params, enlarged)
    weights = DetectorWeights(params, config, None, "orbax", "float32", (), statistics=statistics, head=head)
    path = tmp_path_factory.mktemp("weights") / f"{request.param}.safetensors"
    write_detector(weights, path, format="mmdet")
    return path


def test_the_file_runs_without_the_package_and_detects_what_predict_does(file, tmp_path):
    out = tmp_path / "detector.stablehlo"
    predictor = load_predictor(file, image_size=(96, 128))
    out.write_bytes(export(predictor, ["cpu"]))
    image = DigitComposites("val")[0][0]
    images = [image, np.ascontiguousarray(image[:, :120])]  # the second is padded by 8 columns, here as in predict
    resized = [resized_image(image, predictor.options) for image in images]
    given = {"images": np.zeros((2, 96, 128, 3), np.float32), "sizes": np.stack([each["size"] for each in resized])}
    for array, each in zip(given["images"], resized, strict=True):
        height, width = each["size"]
        array[:height, :width] = normalize(each["image"][:height, :width], predictor.preprocessing.normalization)
        array[height:], array[:, width:] = 9, 9  # the padding does not matter
    np.savez(tmp_path / "given.npz", **given)
    names = [out, tmp_path / "given.npz", tmp_path / "found.npz"]
    done = subprocess.run([sys.executable, "-c", ALONE, *names], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "found.npz")
    for index, (image, each) in enumerate(zip(images, resized, strict=True)):
        expected, used = predictor.detections(image), found["labels"][index] >= 0
        ours = {
            "boxes": expected.boxes * np.float32(each["scale"]),
            "scores": expected.scores,
            "labels": expected.labels,
        }
        theirs = {name: found[name][index][used] for name in ours}
        assert 3 < used.sum() == len(expected.labels)
        # float32 roundings of an image in a batch and alone, and of another implementation of the model
        assert detections_difference(theirs, ours, predictor.options.score, 1e-4) < 1e-4
        assert ("masks" in found) == (expected.masks is not None)
        for row in np.flatnonzero(used)[:3] if "masks" in found else ():
            box = found["boxes"][index][row] / np.float32(each["scale"])
            pasted = paste_cutout(found["masks"][index][row], box, image.shape[:2]).bitmap(image.shape[:2])
            alike = [np.mean(pasted != other.bitmap(image.shape[:2])) for other in expected.masks]
            assert min(alike) < 1e-3


def test_the_command_writes_and_reports_the_shapes_and_the_comparison(file, tmp_path, capsys):
    out = tmp_path / "detector.stablehlo"
    assert main([str(file), str(out), "--image-size", "64x96", "--platforms", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert "images [B, 64, 96, 3] and sizes [B, 2] to boxes [B, 100, 4]" in printed
    assert ("masks [B, 100, 28, 28]" in printed) == ("mask_rcnn" in file.name)
    (found,) = re.findall(r"random images with (\d+) detections: largest relative difference", printed)
    assert int(found) > 0
    with pytest.raises(UserError, match=r"--output logits: expected detections"):
        main([str(file), str(tmp_path / "x"), "--output", "logits"])
    with pytest.raises(UserError, match="detectors are exported in float32, not bfloat16"):
        main([str(file), str(tmp_path / "x"), "--precision", "bfloat16"])
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


DETECTIONS = {
    "boxes": np.float32([[0, 0, 10, 10], [20, 20, 40, 100], [0, 0, 0, 0]]),
    "scores": np.float32([0.9, 0.5, 0]),
    "labels": np.int32([1, 0, -1]),
}


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({}, 0),
        ({"boxes": DETECTIONS["boxes"][[1, 0, 2]], "scores": np.float32([0.5, 0.9, 0]), "labels": [0, 1, -1]}, 0),
        ({"boxes": DETECTIONS["boxes"] + np.float32([[0], [0.5], [0]])}, 0.5 / 100.5),
        ({"scores": np.float32([0.9, 0.52, 0])}, 0.02),
        ({"labels": [1, 1, -1]}, np.inf),
        ({"labels": [1, -1, -1]}, np.inf),
    ],
)
def test_detections_are_compared_in_any_order(changes, difference):
    other = DETECTIONS | {name: np.asarray(array) for name, array in changes.items()}
    for pair in ((DETECTIONS, other), (other, DETECTIONS)):
        np.testing.assert_allclose(detections_difference(*pair, 0.05, 1e-4), difference, rtol=1e-5)


def test_only_a_detection_at_the_threshold_may_be_missing():
    weak = DETECTIONS | {"scores": np.float32([0.9, 0.05005, 0])}
    missing = weak | {"labels": np.int32([1, -1, -1])}
    assert detections_difference(weak, missing, 0.05, 1e-4) == 0
    assert detections_difference(weak, missing, 0.04, 1e-4) == np.inf
