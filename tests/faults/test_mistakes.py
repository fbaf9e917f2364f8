"""Users' mistakes are answered with a one-line error that names the remedy."""

import json

import numpy as np
import pytest
from PIL import Image

from focalnet_jax.convert.adapt import adapt
from focalnet_jax.convert.files import sha256
from focalnet_jax.convert.weights import read_weights
from focalnet_jax.convert.write import write_weights
from focalnet_jax.distributed.mesh import check_batch_size, make_mesh
from focalnet_jax.errors import UserError
from focalnet_jax.parameters import named_leaves
from focalnet_jax.programs.config_files import load_config
from tests.commands import SMALL, assert_one_line_mistake, run
from tests.convert.golden_files import GOLDEN, OPTIONS
from tests.convert.random_weights import weights_of, with_classes


@pytest.mark.fault(24)
@pytest.mark.parametrize(
    ("path", "override", "message"),
    [
        ("configs/quickstart.py", "--config.leraning_rate=3", "schedule.learning_rate"),
        ("configs/quickstart.py", "--config.schedule.learnig_rate=3", "schedule.learning_rate"),
        ("configs/quickstart.py", "--config.batch_size=many", "an integer such as 64"),
        ("configs/quickstart.py", "--config.batch_size=1.5", "an integer such as 64"),
        ("configs/quickstart.py", "--config.batch_size=true", "an integer such as 64"),
        ("configs/quickstart.py", "--config.augment.crop_scale=3", "a tuple"),
        ("configs/quickstart.py", "--config.batch_size", "has no value"),
        ("configs/quickstart.py", "--config.model=3", "model.name"),
        ("configs/quickstart.py", "--config.mesh.dta=3", "mesh.data"),
        ("configs/quickstart.py", "--confg.seed=3", "unknown argument"),
        ("configs/quickstart.py:smok", None, "'smoke'"),
        ("configs/imagenet1k.py:bse_lrf", None, "'base_lrf'"),
        ("configs/imagenet1k.py", None, "--config.data.path"),
        ("configs/nothing.py", None, "no file configs/nothing.py"),
        ("configs", None, "no file configs"),
        ("README.md", None, "not a Python file"),
        ("eval.py", None, "no function get_config"),
        ("configs/quickstart.py", "--config.batch_size=none", "an integer such as 64"),
        ("configs/quickstart.py", "--config.log_every_steps=0", "a positive number"),
        ("configs/quickstart.py", "--config.keep_latest=0", "at least 1"),
        ("configs/quickstart.py", "--config.init_head=drop", "init_from, which is not set"),
        ("configs/quickstart.py", "--config.init_weights=ema", "init_from, which is not set"),
        ("configs/quickstart.py", "--config.augment.label_smoothing=1.0", "[0, 1)"),
        ("configs/quickstart.py", "--config.optimizer.eps=nan", "a number"),
        ("configs/quickstart.py", "--config.profile_steps=3", "expected (first, last), counted from 1"),
        ("configs/quickstart.py", "--config.model=focalnet_tiny_srf", "model is a section"),
        ("configs/imagenet1k.py:tiny_srf,base_lrf", None, "names 2 models"),
    ],
)
def test_a_mistake_is_answered_with_one_line_and_advice(path, override, message):
    with pytest.raises(UserError) as caught:
        load_config(path, [override] if override else [])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.fault(20)
@pytest.mark.parametrize(("size", "valid"), [(10, "8 or 16"), (3, "8"), (0, "8"), (-8, "8"), (1001, "1000 or 1008")])
def test_a_batch_that_devices_cannot_share_is_refused_with_valid_sizes(size, valid):
    with pytest.raises(UserError, match=f"the nearest valid sizes: {valid}$"):
        check_batch_size("batch_size", size, make_mesh({"data": 8, "fsdp": 1, "tensor": 1}))


@pytest.mark.fault(21)
@pytest.mark.fault(22)
def test_eval_accepts_the_path_of_a_step_and_refuses_a_different_model(finished, tmp_path):
    workdir, _ = finished
    step = run("eval.py", *SMALL, "--checkpoint", workdir / "checkpoints" / "56")
    assert json.loads(step.stdout.splitlines()[-1])["checkpoint"].endswith("/56")
    assert_one_line_mistake(run("eval.py", *SMALL, "--checkpoint", tmp_path), "has no checkpoint")
    assert_one_line_mistake(run("eval.py", *SMALL, "--checkpoint", tmp_path / "no"), "no checkpoint or weights file at")
    other = run("eval.py", *SMALL, "--checkpoint", workdir, "--config.model.embed_dim=8")
    assert_one_line_mistake(other, "embed_dim is 16 in the weights and 8 in the model")
    # Different options that shapes do not determine, or adapted windows, would evaluate a different model.
    for option in ("use_postln=true", "normalize_modulator=true", "focal_windows=5"):
        other = run("eval.py", *SMALL, "--checkpoint", workdir, f"--config.model.{option}")
        assert_one_line_mistake(other, f"{option.split('=')[0]} is")


@pytest.mark.fault(22)
@pytest.mark.parametrize(
    ("given", "wanted", "head", "message"),
    [
        (5, 7, "keep", "have 5 classes, the model 7: use the same number, or set init_head .* to drop"),
        (1000, 1000, "remap", "needs weights with 21842 classes and a model with 1000"),
        (0, 1000, "remap", "these weights have 0"),
        (5, 5, "fresh", "keep, drop, remap"),
    ],
)
def test_another_number_of_classes_needs_a_suitable_init_head(given, wanted, head, message):
    weights = weights_of(num_classes=given)
    with pytest.raises(UserError, match=message):
        adapt(weights, with_classes(weights, wanted), head=head)


@pytest.mark.fault(22)
def test_evaluating_weights_with_another_number_of_classes_names_the_key_to_set():
    weights = weights_of(num_classes=5)
    with pytest.raises(UserError, match=r"have 5 classes, the model 7: give --config\.model\.num_classes=5$"):
        adapt(weights, with_classes(weights, 7), surgery=False)


@pytest.mark.fault(23)
def test_weights_in_bfloat16_are_cast_to_float32_and_written_as_bfloat16(tmp_path):
    weights = read_weights(GOLDEN / "timm_lrf.safetensors", options=OPTIONS["timm_lrf"])
    write_weights(weights, tmp_path / "half.safetensors", format="timm", dtype="bfloat16")
    half = read_weights(tmp_path / "half.safetensors", options=OPTIONS["timm_lrf"])
    assert half.dtype == "bfloat16"
    assert {leaf.dtype for leaf in named_leaves(half.params).values()} == {np.dtype("float32")}
    write_weights(half, tmp_path / "again.safetensors", format="timm")
    assert sha256(tmp_path / "again.safetensors") == sha256(tmp_path / "half.safetensors")


def test_a_name_that_no_file_can_have_is_one_line(tmp_path):
    arguments = ["imagefolder", "--source", tmp_path, "--out", tmp_path / ("x" * 300)]
    (tmp_path / "cat").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "cat" / "0.png")
    done = run("-m", "focalnet_jax.data.prepare", *arguments)
    assert_one_line_mistake(done, "File name too long at ")
