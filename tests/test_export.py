"""An exported model runs without this package, for any batch size, and gives the same logits."""

import re
import subprocess
import sys
from dataclasses import replace

import jax
import numpy as np
import pytest
from flax import nnx

import focalnet_jax
from focalnet_jax import export as exporting
from focalnet_jax.errors import RunFailedError, UserError
from focalnet_jax.export import TOLERANCES, compare, export, main
from focalnet_jax.inference import Classifier, load_predictor
from focalnet_jax.tasks.segmentation.composites import DigitComposites
from tests.models import drawn_model

ALONE = """
import sys, numpy, jax.export
exported = jax.export.deserialize(open(sys.argv[1], "rb").read())
images = numpy.load(sys.argv[2])
numpy.save(sys.argv[3], numpy.concatenate([exported.call(images[:1]), exported.call(images[1:])]))
assert not [name for name in sys.modules if name.startswith(("focalnet_jax", "flax"))]
"""


def test_the_file_runs_without_the_package_for_any_batch_and_gives_the_models_logits(tmp_path):
    model = drawn_model("focalnet_tiny_srf", num_classes=7, embed_dim=16, depths=(1, 2))
    (tmp_path / "model.stablehlo").write_bytes(export(Classifier(model, (), 32)))
    images = np.random.default_rng(0).normal(size=(4, 32, 32, 3)).astype(np.float32)
    np.save(tmp_path / "images.npy", images)
    files = [tmp_path / name for name in ("model.stablehlo", "images.npy", "logits.npy")]
    done = subprocess.run([sys.executable, "-c", ALONE, *files], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    # The same program except for the batch size: float32 roundings.
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), jax.jit(model)(images), rtol=1e-5, atol=1e-6)


def test_a_runs_weights_are_exported_by_the_command(finished, tmp_path, capsys):
    workdir, _ = finished
    out = tmp_path / "run.stablehlo"
    assert main([str(workdir), str(out), "--image-size", "24", "--platforms", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert "[B, 24, 24, 3] to logits [B, 10], for cpu" in printed
    # Compares the model's C++ kernels with XLA: not bitwise equal, but far within the tolerance.
    assert 0 < _difference(printed) < TOLERANCES["float32"] / 10
    exported = jax.export.deserialize(out.read_bytes())
    assert exported.platforms == ("cpu",)
    images = np.zeros((3, 24, 24, 3), np.float32)
    np.testing.assert_allclose(exported.call(images), focalnet_jax.load_model(workdir)(images), rtol=1e-5, atol=1e-6)
    assert main([str(workdir), str(tmp_path / "own"), "--platforms", "cpu"]) == 0
    assert "[B, 16, 16, 3] to logits [B, 10], for cpu" in capsys.readouterr().out  # the size of its training images
    (tmp_path / "own").unlink()
    with pytest.raises(UserError, match="exists"):
        main([str(workdir), str(out)])
    with pytest.raises(UserError, match="expected one or more of cpu, cuda, tpu"):
        main([str(workdir), str(tmp_path / "x"), "--platforms", "gpu"])
    with pytest.raises(UserError, match="--image-size 0: expected 1 or more"):
        main([str(workdir), str(tmp_path / "x"), "--image-size", "0"])
    with pytest.raises(UserError, match="at least"):
        main([str(workdir), str(tmp_path / "x"), "--image-size", "2"])
    assert [path.name for path in tmp_path.iterdir()] == ["run.stablehlo"]


def _difference(printed):
    return float(re.search(r"batches of 1 and 3 random images: largest relative difference (\S+),", printed)[1])


@pytest.mark.parametrize("output", ["logits", "classes"])
def test_a_segmentation_model_is_exported_with_an_output_for_every_pixel_of_the_input(
    segmented, tmp_path, capsys, output
):
    out = tmp_path / "run.stablehlo"
    assert main([str(segmented), str(out), "--output", output, "--platforms", "cpu"]) == 0
    printed = capsys.readouterr().out
    shape = "classes [B, 64, 64]" if output == "classes" else "logits [B, 64, 64, 11]"
    assert f"[B, 64, 64, 3] to {shape}, for cpu" in printed
    assert 0 <= _difference(printed) < TOLERANCES["float32"] / 10
    how = "resized to fit into 64x64 pixels, bilinear without antialiasing, ImageNet's mean and std"
    assert printed.endswith(f"(stored with the weights): {how}\n")
    segmenter, image = load_predictor(segmented), DigitComposites("val")[0][0]
    result = jax.export.deserialize(out.read_bytes()).call(segmenter.normalize(image[None]))
    classes = np.asarray(result if output == "classes" else result.argmax(axis=-1))
    # The image has the size of the file, so both are the same computation; a few pixels may be nearly tied.
    assert np.mean(classes[0] == segmenter.classes(image)) > 0.999


def test_the_size_of_a_segmentation_models_file_may_be_chosen(segmented, tmp_path, capsys):
    assert main([str(segmented), str(tmp_path / "run"), "--image-size", "40x72", "--platforms", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert "[B, 40, 72, 3] to logits [B, 40, 72, 11], for cpu" in printed
    assert "resized to fit into 72x40 pixels" in printed


def test_a_bfloat16_model_is_compared_within_its_own_rounding(finished, tmp_path, capsys):
    out = tmp_path / "run.stablehlo"
    assert main([str(finished[0]), str(out), "--precision", "bfloat16", "--platforms", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert _difference(printed) < TOLERANCES["bfloat16"]
    assert "is rounding in bfloat16" in printed


@pytest.mark.parametrize(
    ("value", "output", "message"),
    [
        (1.01, "logits", r"run.stablehlo is not written, because its logits differ from the model's by \d.*most 1e-04"),
        (np.nan, "logits", "its logits differ from the model's by nan"),
        (-1, "classes", r"run.stablehlo is not written, because its classes differ from the model's by \d"),
    ],
)
def test_an_export_whose_output_differs_is_not_written(finished, tmp_path, monkeypatch, value, output, message):
    def wrong(predictor, *arguments):
        graph, state = nnx.split(predictor.model)
        changed = jax.tree.map(lambda leaf: leaf * np.float32(value), state)
        return export(replace(predictor, model=nnx.merge(graph, changed)), *arguments)

    monkeypatch.setattr(exporting, "export", wrong)
    with pytest.raises(RunFailedError, match=message):
        main([str(finished[0]), str(tmp_path / "run.stablehlo"), "--platforms", "cpu", "--output", output])
    assert not list(tmp_path.iterdir())


def test_an_export_for_other_platforms_is_written_and_reported_as_not_compared(finished, tmp_path, capsys):
    assert main([str(finished[0]), str(tmp_path / "run.stablehlo"), "--platforms", "tpu,cuda"]) == 0
    assert "not compared with the model: this machine runs cpu, the file tpu, cuda" in capsys.readouterr().out
    assert (tmp_path / "run.stablehlo").stat().st_size


def test_a_model_whose_logits_are_not_finite_is_not_written(tmp_path):
    model = drawn_model("focalnet_tiny_srf", num_classes=7, embed_dim=16, depths=(1, 2))
    model.head.bias[...] = np.inf
    classifier = Classifier(model, (), 32)
    with pytest.raises(
        RunFailedError, match="x is not written: the model's logits of random images are NaN or infinite"
    ):
        compare(export(classifier), classifier, tmp_path / "x")
