"""If weights cannot be written, the command ends with a one-line error and leaves no files."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from focalnet_jax.convert.weights import read_weights
from focalnet_jax.convert.write import write_weights
from focalnet_jax.errors import UserError
from focalnet_jax.model.variants import ABLATIONS
from focalnet_jax.parameters import named_leaves
from tests.commands import run
from tests.convert.golden_files import GOLDEN, OPTIONS
from tests.convert.random_weights import weights_of


def test_nothing_stays_behind_where_writing_fails(tmp_path):
    weights = read_weights(GOLDEN / "timm_lrf.safetensors", options=OPTIONS["timm_lrf"])
    weights.params["norm"]["bias"][0] = 1e6
    with pytest.raises(UserError, match="too large for"):
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
    # A limit of 8 KB per file imitates a full disk; Python would leave truncated .pyc files in the environment.
    (tmp_path / "limited.py").write_text(
        "import resource, runpy, sys\n"
        "sys.dont_write_bytecode = True\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))\n"
        "runpy.run_module('focalnet_jax.convert', run_name='__main__', alter_sys=True)\n"
    )
    for format, name in (("timm", "x.safetensors"), ("huggingface", "hf"), ("orbax", "checkpoint")):
        done = run(tmp_path / "limited.py", tmp_path / "whole", tmp_path / name, "--to", format)
        assert done.returncode == 2
        assert done.stderr.startswith("error: cannot write")
        assert len(done.stderr.splitlines()) == 1, done.stderr
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["limited.py", "whole"]


def test_writing_a_torch_file_without_torch_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # imitates a machine without torch
    weights = read_weights(GOLDEN / "timm_lrf.safetensors", options=OPTIONS["timm_lrf"])
    with pytest.raises(UserError, match="pip install torch"):
        write_weights(weights, tmp_path / "new.pth", format="timm")
    assert not list(tmp_path.iterdir())


def test_a_type_in_which_most_of_a_tensor_would_vanish_is_refused(tmp_path):
    weights = read_weights(GOLDEN / "timm_lrf.safetensors", options=OPTIONS["timm_lrf"])
    weights.params["head"]["kernel"] *= 1e-30
    with pytest.raises(UserError, match=r"head\.fc\.weight is too small for float16"):
        write_weights(weights, tmp_path / "half.safetensors", format="timm", dtype="float16")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("field", ABLATIONS)
def test_a_model_without_a_component_is_written_as_a_checkpoint_only(field, tmp_path):
    weights = weights_of(**{field: False})
    for format, name in (("microsoft", "a.safetensors"), ("timm", "b.safetensors"), ("huggingface", "c")):
        with pytest.raises(UserError, match=f"{format} has no FocalNet with {field}=False"):
            write_weights(weights, tmp_path / name, format=format)
    assert not list(tmp_path.iterdir())
    write_weights(weights, tmp_path / "step", format="orbax")
    again = read_weights(tmp_path / "step")
    assert again.config == weights.config
    for name, value in named_leaves(weights.params).items():
        np.testing.assert_array_equal(named_leaves(again.params)[name], value)


def test_an_output_that_cannot_be_written_causes_no_traceback(tmp_path):
    arguments = [GOLDEN / "timm_lrf.safetensors", "--to", "timm", "--option", "normalize_modulator=false"]
    command = [sys.executable, "-u", "-m", "focalnet_jax.convert", *map(str, arguments)]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([*command, tmp_path / "a.safetensors"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (
        1,
        "failed: No space left on device; free disk space and start the same command again\n",
    )
    process = subprocess.Popen([*command, tmp_path / "b.safetensors"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert (process.stderr.read(), process.wait()) == (b"", 1)
