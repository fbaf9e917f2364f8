"""Runs with parameters and optimizer state sharded over a mesh compute the same as on one device."""

import contextlib
import math
import re

import jax
import numpy as np
import pytest
from flax import nnx
from jax.experimental import mesh_utils

from focalnet_jax.aot.program import Program
from focalnet_jax.convert.mapping import param_shapes
from focalnet_jax.distributed.mesh import LocalPlaces, make_mesh, put_batch, put_exchanged
from focalnet_jax.distributed.sharding import TENSOR_RULES, describe_sharding, list_placement, partition, shardings
from focalnet_jax.errors import UserError
from focalnet_jax.model import list_models, variant_config
from focalnet_jax.model.heads.atss import ATSS
from focalnet_jax.model.heads.mask_rcnn import CascadeMaskRCNN, MaskRCNN
from focalnet_jax.model.heads.sparse_rcnn import SparseRCNN
from focalnet_jax.model.heads.upernet import UPerNet
from focalnet_jax.model.precision import get_precision
from focalnet_jax.parameters import named_leaves
from focalnet_jax.training.state import abstract_state
from focalnet_jax.training.step import make_train_step
from tests.distributed.meshes import spec_on, trained
from tests.models import drawn_model
from tests.specs import train_batches_of

MESHES = {"fsdp": (1, 8, 1), "all": (2, 2, 2)}  # for data alone, see tests/training/test_step.py


@pytest.fixture(scope="module")
def on_one():
    return trained((1, 1, 1))


@pytest.mark.parametrize("mesh", MESHES)
def test_every_mesh_gives_the_same_losses_and_keeps_its_placement(mesh, on_one):
    losses, state = trained(MESHES[mesh])
    # Sums are computed in a different order, with an error of 6e-8 per rounding that grows slightly in ten AdamW steps.
    np.testing.assert_allclose(losses, on_one[0], rtol=1e-5)
    held = sum(leaf.addressable_shards[0].data.size for leaf in jax.tree.leaves(state.params))
    whole = sum(leaf.size for leaf in jax.tree.leaves(on_one[1].params))
    assert held < 0.35 * whole
    for moment in ("mu", "nu"):
        kept = named_leaves(state.opt_state).items()
        moments = {name.rpartition(f"{moment}/")[2]: leaf for name, leaf in kept if f"{moment}/" in name}
        for name, leaf in named_leaves(state.params).items():
            assert moments[name].sharding == leaf.sharding, name


def test_the_average_of_the_weights_is_sharded_like_the_weights():
    _, state = trained((1, 8, 1), steps=1, overrides=["--config.ema_decay=0.9"])
    for name, leaf in named_leaves(state.params).items():
        assert named_leaves(state.ema)[name].sharding == leaf.sharding, name


# For this shape, the compiler by default gathers the examples of all devices before the depthwise convolutions.
WIDE = [
    "--config.model.name=focalnet_huge_fl4",
    "--config.model.depths=(2,)",
    "--config.data.image_size=64",
    "--config.data.eval_resize=64",
    "--config.batch_size=256",
    "--config.augment.mixup=0.8",
]


def test_weights_travel_and_activations_stay():
    config, spec, init = spec_on((1, 8, 1), WIDE)
    batch = next(train_batches_of(config, spec, 1))
    compiled = make_train_step(spec).lower(abstract_state(spec, init), put_batch(batch, spec.mesh)).compile()
    travelling = [
        tuple(map(int, shape.split(",")))
        for lines in Program(compiled.as_text()).computations.values()
        for instruction in lines
        if instruction.operation in ("all-gather", "all-to-all", "all-reduce")
        for shape in re.findall(r"\w\[([\d,]+)\]", instruction.type)
    ]
    assert travelling
    # Arrays whose leading axis is the examples of one device, or of all; weights have kernels or channels there.
    assert not [shape for shape in travelling if len(shape) > 2 and shape[0] in (32, 256)]


def test_micro_batches_on_a_mesh_are_one_batch():
    losses, _ = trained((1, 2, 2), steps=5, overrides=["--config.accumulate_steps=4"])
    whole, _ = trained((1, 2, 2), steps=5)
    np.testing.assert_allclose(losses, whole, rtol=1e-5)


@pytest.mark.parametrize("name", list_models())
def test_every_variant_splits_evenly_and_nearly_whole(name):
    params = param_shapes(variant_config(name))
    matching = {path: [rule for rule, _ in TENSOR_RULES if re.search(rule, path)] for path in named_leaves(params)}
    assert {path: rules for path, rules in matching.items() if len(rules) != 1} == {}
    sizes = {"fsdp": 8, "tensor": 2}
    split = 0
    for path, leaf in named_leaves(params).items():
        spec = partition(path, leaf.shape, sizes)
        for axis, length in zip(spec, leaf.shape, strict=True):
            assert axis is None or length % sizes[axis] == 0
        assert "/blocks/" not in path or spec[0] is None  # the depth, over which blocks are scanned
        split += leaf.size * any(spec)
    assert split > 0.98 * sum(leaf.size for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize("trained", [True, False], ids=["as trained", "xla, in a mesh of one's own"])
def test_only_the_exchanges_the_rules_mean_are_in_an_mlps_program(trained):
    """fc1 is sharded by columns, fc2 by rows: one all-reduce in the forward pass, and no gathering of weights."""
    mesh = make_mesh({"data": 1, "fsdp": 1, "tensor": 8})
    model = drawn_model(
        "focalnet_tiny_srf", embed_dim=32, depths=(1,), num_classes=8, aggregation="auto" if trained else "xla"
    )
    graph, params = nnx.split(model)
    params = nnx.to_pure_dict(params)
    placed = jax.device_put(params, shardings(params, mesh))
    images = jax.device_put(np.zeros((2, 32, 32, 3), np.float32), jax.NamedSharding(mesh, jax.P()))
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh) if trained else contextlib.nullcontext():
        text = jax.jit(lambda p, x: nnx.merge(graph, p)(x)).lower(placed, images).compile().as_text()
    assert "all-reduce" in text or "reduce-scatter" in text
    gathered = [
        line for line in text.splitlines() if "all-gather(" in line and re.search(r"f32\[1,(32,128|128,32)\]", line)
    ]
    assert not gathered  # fc1 and fc2 are not moved


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((3, 2, -1), "6 does not divide the 8 devices; .* 1, 2, 4, 8"),
        ((-1, -1, 1), "one of which may be -1"),
        ((0, 1, 1), "expected positive numbers"),
        ((4, 4, 1), "a mesh of 16 devices, but there are 8 devices"),
    ],
)
def test_impossible_meshes_are_refused_with_what_is_possible(sizes, message):
    with pytest.raises(UserError, match=message):
        make_mesh(dict(zip(("data", "fsdp", "tensor"), sizes, strict=True)))


def test_channels_that_do_not_divide_are_refused():
    with pytest.raises(UserError, match=r"mesh.tensor=8 does not divide the 100 channels of .*fc1"):
        partition("stages/0/blocks/mlp/fc1/kernel", (2, 25, 100), {"fsdp": 1, "tensor": 8})


def segmenter_shapes():
    config = variant_config("focalnet_tiny_srf")
    model = nnx.eval_shape(lambda: UPerNet(config, 150, precision=get_precision("float32"), rngs=nnx.Rngs(0)))
    return nnx.to_pure_dict(nnx.state(model))


def test_a_segmenters_parameters_and_statistics_have_one_rule_each():
    leaves = named_leaves(segmenter_shapes())
    split = sum(leaf.size * any(partition(name, leaf.shape, {"fsdp": 8, "tensor": 2})) for name, leaf in leaves.items())
    assert split > 0.98 * sum(leaf.size for leaf in leaves.values())
    assert "decode_head/psp_modules/3/bn/var" in leaves


DETECTORS = (ATSS, MaskRCNN, CascadeMaskRCNN, SparseRCNN)


def detector_shapes(detector):
    """Returns the shapes of a detector's parameters and running statistics by name."""
    config = variant_config("focalnet_tiny_srf", embed_dim=8, depths=(1, 1, 1, 1))
    model = nnx.eval_shape(lambda: detector(config, 3, precision=get_precision("float32"), rngs=nnx.Rngs(0)))
    return {name: leaf.shape for name, leaf in named_leaves(nnx.to_pure_dict(nnx.state(model))).items()}


@pytest.mark.parametrize("detector", DETECTORS)
def test_every_variable_of_a_detector_has_one_rule(detector):
    for name, shape in detector_shapes(detector).items():
        partition(name, shape, {"fsdp": 2, "tensor": 1})


def test_every_rule_is_of_a_parameter():
    """The parameter belongs to a variant, to UPerNet or to a detector."""
    names = set(named_leaves(segmenter_shapes())).union(
        *map(detector_shapes, DETECTORS),
        *(named_leaves(param_shapes(variant_config(name))) for name in list_models()),
    )
    assert not [rule for rule, _ in TENSOR_RULES if not any(re.search(rule, name) for name in names)]


@pytest.mark.parametrize(
    "sizes", [{"fsdp": 1, "tensor": 1}, {"fsdp": 2, "tensor": 1}, {"fsdp": 1, "tensor": 2}], ids=str
)
@pytest.mark.parametrize("name", ["pyramid/lateral/0/kernel", "stages/0/blocks/mlp/fc3/kernel"])
def test_a_parameter_without_a_rule_is_an_error_on_every_mesh(name, sizes):
    with pytest.raises(
        UserError, match=rf"one rule of TENSOR_RULES \(.*\) must match the parameter {name}; found none"
    ):
        partition(name, (64, 64), sizes)


def test_small_parameters_stay_whole_and_the_report_says_how_much():
    assert not any(partition("norm/scale", (768,), {"fsdp": 8, "tensor": 2}))
    params = param_shapes(variant_config("focalnet_tiny_srf"))
    mesh = make_mesh({"data": 1, "fsdp": 8, "tensor": 1})
    share = float(describe_sharding(params, mesh).partition("%")[0])
    assert 98 < share < 100
    rows = dict(line.split(maxsplit=1) for line in list_placement(params, mesh).splitlines())
    assert rows.keys() == named_leaves(params).keys()
    assert rows["stages/2/blocks/mlp/fc1/kernel"].split(maxsplit=1) == ["6x384x1536", "-, -, fsdp"]
    sizes = {name: math.prod(map(int, row.split()[0].split("x"))) for name, row in rows.items()}
    split = sum(size for name, size in sizes.items() if "fsdp" in rows[name])
    assert share == pytest.approx(100 * split / sum(sizes.values()), abs=0.06)  # it is rounded to a tenth
    stored = int(describe_sharding(params, mesh).split("stores ")[1].split()[0].replace(",", ""))
    assert stored == pytest.approx(28.4e6 / 8, rel=0.1)


def test_a_host_reads_what_its_devices_hold_wherever_they_are_in_the_mesh():
    devices = np.array(jax.devices())
    mesh = jax.sharding.Mesh(devices.reshape(4, 1, 2), ("data", "fsdp", "tensor"))
    assert LocalPlaces(mesh).slice(8) == tuple(range(8))
    array = put_exchanged([3, 5], mesh)
    assert array.shape == (8, 2)
    np.testing.assert_array_equal(np.asarray(array).sum(axis=0), [3, 5])


def test_some_of_a_hosts_devices_need_no_shape_of_their_own(monkeypatch):
    def no_such_shape(*_, **__):
        raise AssertionError("three chips of a square")

    monkeypatch.setattr(mesh_utils, "create_device_mesh", no_such_shape)
    devices = jax.devices()
    assert list(make_mesh({"data": 3, "fsdp": 1, "tensor": 1}, devices[:4]).devices.flat) == devices[:3]
