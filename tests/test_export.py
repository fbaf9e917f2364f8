"""An exported model runs where this package is not, for any batch size, and gives the same logits."""

import subprocess
import sys

import jax
import numpy as np
import pytest

import focalnet_jax
from focalnet_jax.errors import UserError
from focalnet_jax.export import export, main

ALONE = """
import sys, numpy, jax.export
exported = jax.export.deserialize(open(sys.argv[1], "rb").read())
images = numpy.load(sys.argv[2])
numpy.save(sys.argv[3], numpy.concatenate([exported.call(images[:1]), exported.call(images[1:])]))
assert not [name for name in sys.modules if name.startswith(("focalnet_jax", "flax"))]
"""


def test_the_file_runs_without_the_package_for_any_batch_and_gives_the_models_logits(tmp_path):
    model = focalnet_jax.create_model("focalnet_tiny_srf", num_classes=7, embed_dim=16, depths=(1, 2))
    (tmp_path / "model.stablehlo").write_bytes(export(model, 32))
    images = np.random.default_rng(0).normal(size=(4, 32, 32, 3)).astype(np.float32)
    np.save(tmp_path / "images.npy", images)
    files = [tmp_path / name for name in ("model.stablehlo", "images.npy", "logits.npy")]
    done = subprocess.run([sys.executable, "-c", ALONE, *files], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    # The same program but for the batch size; float32 roundings.
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), jax.jit(model)(images), rtol=1e-5, atol=1e-6)


def test_a_runs_weights_are_exported_by_the_command(finished, tmp_path, capsys):
    workdir, _ = finished
    out = tmp_path / "run.stablehlo"
    assert main([str(workdir), str(out), "--image-size", "24", "--platforms", "cpu"]) == 0
    assert "[B, 24, 24, 3] to [B, 10], for cpu" in capsys.readouterr().out
    exported = jax.export.deserialize(out.read_bytes())
    assert exported.platforms == ("cpu",)
    images = np.zeros((3, 24, 24, 3), np.float32)
    np.testing.assert_allclose(exported.call(images), focalnet_jax.load_model(workdir)(images), rtol=1e-5, atol=1e-6)
    assert main([str(workdir), str(tmp_path / "own"), "--platforms", "cpu"]) == 0
    assert "[B, 16, 16, 3] to [B, 10], for cpu" in capsys.readouterr().out  # what it was trained at
    (tmp_path / "own").unlink()
    with pytest.raises(UserError, match="exists"):
        main([str(workdir), str(out)])
    with pytest.raises(UserError, match="expected some of cpu, cuda, tpu"):
        main([str(workdir), str(tmp_path / "x"), "--platforms", "gpu"])
    with pytest.raises(UserError, match="--image-size 0: expected 1 or more"):
        main([str(workdir), str(tmp_path / "x"), "--image-size", "0"])
    with pytest.raises(UserError, match="at least"):
        main([str(workdir), str(tmp_path / "x"), "--image-size", "2"])
    assert [path.name for path in tmp_path.iterdir()] == ["run.stablehlo"]
