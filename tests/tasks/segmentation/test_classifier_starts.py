"""A run of segmentation starts from a classifier in every format: its whole backbone, with kernels padded."""

import numpy as np
import pytest

from focalnet_jax.checkpoint.weights import read_arrays
from focalnet_jax.convert.mapping import params_to_tensors
from focalnet_jax.convert.write import write_weights
from focalnet_jax.parameters import named_leaves
from focalnet_jax.programs.config_files import load_config
from focalnet_jax.training.loop import train
from tests.convert.random_weights import weights_of
from tests.convert.torch_writer import save
from tests.tasks.segmentation.test_starts import started

FILES = ["timm.pth", "timm.safetensors", "timm", "huggingface", "microsoft.pth", "microsoft.safetensors", "orbax"]
WINDOWS = "--config.model.focal_windows=9"


@pytest.fixture(scope="module")
def weights():
    return weights_of(depths=(1, 1), focal_levels=2, focal_windows=3, num_classes=7)


@pytest.fixture(scope="module")
def fresh():
    """The variables of a run without `init_from`."""
    return started(WINDOWS)[0]


def assert_backbone(path, given, fresh):
    """Asserts that a run starts from the backbone of `given`, and that everything else is fresh."""
    state, origin = started(f"--config.init_from={path}", WINDOWS)
    backbone = {name: leaf for name, leaf in given.items() if not name.startswith(("norm/", "head/"))}
    names = {f"0/backbone/{name}" for name in backbone}
    assert names | {name for name in state if "/output_norms/" in name} == {
        name for name in state if name.startswith("0/backbone/")
    }
    for name, leaf in backbone.items():
        found = state[f"0/backbone/{name}"]
        if "/focal_kernels/" in name and name.endswith("/kernel"):
            side = (found.shape[1] - leaf.shape[1]) // 2
            assert side == 3  # 9 from 3, 11 from 5
            leaf = np.pad(leaf, [(0, 0), (side, side), (side, side), *[(0, 0)] * (leaf.ndim - 3)])
        np.testing.assert_array_equal(found, leaf, err_msg=name)
    for name in state.keys() - names:
        np.testing.assert_array_equal(state[name], fresh[name], err_msg=name)
    assert "\n" not in origin
    assert "focal_windows changed from (3, 3) to (9, 9)" in origin
    assert "the head was left out, and everything after the backbone is newly initialised" in origin


@pytest.mark.parametrize("name", FILES)
def test_every_value_of_the_backbone_is_that_of_the_file(name, weights, fresh, tmp_path):
    path, format = tmp_path / name, name.partition(".")[0]
    if path.suffix == ".pth":
        tensors = dict(params_to_tensors(weights.params, weights.config, format))
        save({"model": tensors} if format == "microsoft" else tensors, path)
    else:
        write_weights(weights, path, format=format)
    assert_backbone(path, named_leaves(weights.params), fresh)


def test_a_run_of_classification_gives_its_averaged_backbone(fresh, tmp_path):
    sizes = ["embed_dim=8", "depths=(1,1)", "focal_levels=2", "focal_windows=3"]
    flags = [f"--config.model.{size}" for size in sizes] + [
        "--config.data.image_size=16",
        "--config.data.eval_resize=16",
        "--config.batch_size=8",
        "--config.total_steps=1",
        "--config.schedule.warmup_steps=0",
        "--config.ema_decay=0.5",
    ]
    assert train(load_config("configs/quickstart.py", flags), tmp_path / "run") == 0
    [checkpoint] = (tmp_path / "run" / "checkpoints").glob("1")
    given, last = read_arrays(checkpoint, "ema"), read_arrays(checkpoint, "params")
    assert any(not np.array_equal(given[name], last[name]) for name in given)
    assert_backbone(tmp_path / "run", given, fresh)
