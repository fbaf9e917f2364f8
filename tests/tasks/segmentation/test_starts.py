"""Runs of segmentation start from weights of both tasks, and match the classes of the data by name."""

import dataclasses
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from focalnet_jax.convert.read_upernet import read_upernet
from focalnet_jax.convert.write import write_weights
from focalnet_jax.convert.write_upernet import write_upernet
from focalnet_jax.data.masks import IGNORED, decode_pair
from focalnet_jax.distributed.mesh import make_mesh
from focalnet_jax.errors import UserError
from focalnet_jax.parameters import named_leaves
from focalnet_jax.programs.config_files import load_config
from focalnet_jax.tasks.segmentation import kind
from focalnet_jax.tasks.segmentation.classes import match_pairs
from focalnet_jax.tasks.segmentation.composites import DigitComposites
from focalnet_jax.training.evaluate_checkpoint import evaluate_checkpoint
from focalnet_jax.training.loop import train
from focalnet_jax.training.spec import make_spec
from focalnet_jax.training.start import first_state, start_task
from focalnet_jax.training.state import abstract_variables
from tests.convert.random_weights import weights_of

SMALL = [
    "--config.model.embed_dim=8",
    "--config.model.depths=(1,1)",
    "--config.head.channels=4",
    "--config.head.auxiliary_channels=4",
    "--config.data.image_size=32",
    "--config.augment.box=(32,32)",
    "--config.batch_size=8",
    "--config.total_steps=1",
    "--config.schedule.warmup_steps=0",
    "--config.schedule.learning_rate=0.0",  # so that the parameters after a step are those of the start
    "--config.model.drop_path_rate=0.0",
]


def config_of(*flags):
    return load_config("configs/upernet_ade20k.py:smoke", [*SMALL, *flags])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run."""
    run = tmp_path_factory.mktemp("starts") / "run"
    assert train(config_of(), run) == 0
    return run


@pytest.fixture(scope="module")
def file(trained):
    """The run's weights in mmsegmentation's format, with the class names in another order."""
    weights = read_upernet(trained)
    path = trained.parent / "weights.safetensors"
    write_upernet(weights, path, format="mmseg")
    return path


def started(*flags):
    """Returns the parameters with which a run starts, and their origin in words."""
    config, mesh = config_of(*flags), make_mesh({"data": 1, "fsdp": 1, "tensor": 1}, jax.devices()[:1])
    task = kind.make_task(config, kind.open_examples(config), evaluated=False)
    spec, init = make_spec(config, mesh, task, warmup_steps=0, total_steps=1)
    _, initial, _ = start_task(config, task, None, None, abstract_variables(init, mesh))
    state, origin = first_state(spec, init, SimpleNamespace(latest_step=None), initial)
    return named_leaves(jax.device_get((state.params, state.statistics))), origin


def test_weights_of_classification_start_the_backbone_with_padded_kernels(tmp_path):
    weights = weights_of(depths=(1, 1), focal_levels=2, focal_windows=3)
    write_weights(weights, tmp_path / "weights.safetensors", format="microsoft")
    flags = f"--config.init_from={tmp_path / 'weights.safetensors'}", "--config.model.focal_windows=9"
    state, origin = started(*flags)
    kernel = state["0/backbone/stages/0/blocks/modulation/focal_kernels/0/kernel"]
    given = named_leaves(weights.params)["stages/0/blocks/modulation/focal_kernels/0/kernel"]
    assert kernel.shape[1:3] == (9, 9)
    np.testing.assert_array_equal(kernel[:, 3:6, 3:6], given)
    assert np.count_nonzero(kernel) == np.count_nonzero(given)
    assert "focal_windows changed from (3, 3) to (9, 9)" in origin
    assert "the head was left out" in origin


@pytest.mark.parametrize("form", ["run", "file"])
def test_weights_of_segmentation_start_all_parts_or_all_but_the_last_layers(form, trained, file):
    flags = f"--config.init_from={trained if form == 'run' else file}", "--config.seed=5"
    weights = read_upernet(trained)
    given = named_leaves((weights.params, weights.statistics))
    kept, _ = started(*flags)
    assert all(np.array_equal(kept[name], given[name]) for name in given)
    dropped, origin = started(*flags, "--config.init_head=drop")
    differing = {name for name in given if not np.array_equal(dropped[name], given[name])}
    assert differing == {"0/decode_head/conv_seg/kernel", "0/auxiliary_head/conv_seg/kernel"}
    assert "new last layers of the heads (conv_seg) for 11 classes" in origin


def test_a_file_and_a_run_are_evaluated_alike(trained, file):
    results = [evaluate_checkpoint(config_of(), str(path)) for path in (trained, file)]
    assert results[0]["miou"] == pytest.approx(results[1]["miou"])
    assert results[0]["loss"] == pytest.approx(results[1]["loss"])
    assert results[0]["examples"] == 128


def test_weights_that_do_not_fit_are_errors_of_one_line(trained, file, tmp_path):
    with pytest.raises(UserError, match=r"head.channels is 4 in the weights and 6 in the model: give"):
        evaluate_checkpoint(config_of("--config.head.channels=6"), str(file))
    with pytest.raises(UserError, match=r"the weights have 11 classes, the model 12: give .*init_head=drop"):
        train(config_of(f"--config.init_from={trained}", "--config.model.num_classes=12"), tmp_path / "a")
    plain = tmp_path / "plain.safetensors"
    write_weights(weights_of(depths=(1, 1)), plain, format="microsoft")
    with pytest.raises(UserError, match=r"plain.safetensors has no UPerNet: these are weights of classification"):
        evaluate_checkpoint(config_of(), str(plain))


def test_weights_with_classes_in_another_order_have_the_same_result(trained, file, tmp_path, capsys):
    weights = read_upernet(file)
    order = np.random.default_rng(0).permutation(11)
    head = weights.params["decode_head"]["conv_seg"]
    params = weights.params | {
        "decode_head": weights.params["decode_head"]
        | {"conv_seg": {"kernel": head["kernel"][:, order], "bias": head["bias"][order]}}
    }
    names = tuple(weights.info.classes[index] for index in order)
    info = dataclasses.replace(weights.info, classes=names)
    write_upernet(dataclasses.replace(weights, params=params, info=info), tmp_path / "moved", format="orbax")
    expected = evaluate_checkpoint(config_of(), str(file))
    found = evaluate_checkpoint(config_of(), str(tmp_path / "moved"))
    assert "11 of the 11 classes of" in capsys.readouterr().out
    assert found["miou"] == pytest.approx(expected["miou"])


def matched(known, outputs=11):
    return match_pairs(DigitComposites("val"), known, outputs, data="split val", model="W", advice="rename them")


def test_masks_have_the_numbers_of_the_outputs():
    source = DigitComposites("val")
    known = tuple(reversed(source.class_names))
    relabelled = matched(known)
    _, before = decode_pair(*source[0], source.coding)
    _, after = decode_pair(*relabelled[0], relabelled.coding)
    np.testing.assert_array_equal(after[before != IGNORED], 10 - before[before != IGNORED])
    assert (after[before == IGNORED] == IGNORED).all()
    assert relabelled.class_names == known
    assert relabelled.fingerprint == source.fingerprint


def test_classes_that_cannot_be_matched_are_named(capsys):
    with pytest.raises(
        UserError, match=r"split val has 1 class that W lacks: 9; the 10 classes of the model .*: rename them"
    ):
        matched(("background", *"012345678"))
    with pytest.raises(UserError, match="the names of the 12 outputs of W are unknown, and split val has 11 classes"):
        matched(None, 12)
    assert matched(None).class_names == DigitComposites.class_names
    assert "the outputs of W have no names" in capsys.readouterr().out
    assert matched(("Back-Ground", *"0123456789")).outputs == tuple(range(11))
