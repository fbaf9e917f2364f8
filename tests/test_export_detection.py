"""An exported detector detects what `predict` detects, without this package."""

import subprocess
import sys

import jax
import numpy as np
import pytest
from flax import nnx

from focalnet_jax.convert.detectors import DetectorWeights, abstract_detector
from focalnet_jax.convert.write_detector import write_detector
from focalnet_jax.data.normalization import normalize
from focalnet_jax.data.paste import paste_cutout
from focalnet_jax.errors import RunFailedError, UserError
from focalnet_jax.export import TOLERANCES, compare, export, main
from focalnet_jax.inference import load_predictor
from focalnet_jax.model import FocalNetConfig
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
    head = DETECTOR_HEADS[request.param]
    model = with_drawn_parameters(lambda: nnx.merge(*nnx.split(abstract_detector(config, head))))
    params, statistics = (nnx.to_pure_dict(each) for each in nnx.split(model, nnx.Param, ...)[1:])
    weights = DetectorWeights(params, config, None, "orbax", "float32", (), statistics=statistics, head=head)
    path = tmp_path_factory.mktemp("weights") / f"{request.param}.safetensors"
    write_detector(weights, path, format="mmdet")
    return path


def test_the_file_runs_without_the_package_and_detects_what_predict_does(file, tmp_path):
    out = tmp_path / "detector.stablehlo"
    predictor = load_predictor(file, image_size=(96, 128))
    out.write_bytes(export(predictor, ["cpu"]))
    images = [DigitComposites("val")[index][0] for index in (0, 2)]  # the second is higher, so it is padded
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
        assert 3 < used.sum() == len(expected.labels)
        order = [np.lexsort((labels, -scores.round(4))) for labels, scores in ()]
