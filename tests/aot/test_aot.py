"""Steps are compiled for described hardware: errors in the description, and the report."""

import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from focalnet_jax.aot import compilation, topology
from focalnet_jax.aot.__main__ import main
from focalnet_jax.aot.compilation import Attempt, DoesNotFitError, compile_fitting, compile_step, search
from focalnet_jax.aot.report import summary, table
from focalnet_jax.aot.topology import describe_devices
from focalnet_jax.distributed.chips import CHIPS, find_chip
from focalnet_jax.distributed.mesh import make_mesh
from focalnet_jax.errors import UserError
from focalnet_jax.programs.config_files import load_config
from tests.commands import assert_one_line_mistake, run

KEYS = {
    "topology", "devices", "global_batch", "fits", "hbm_bytes_per_device", "hbm_capacity_bytes", "flops_per_step",
    "estimated_step_seconds", "estimated_mfu", "images_per_second_per_device", "collective_bytes_per_device",
    "compile_seconds",
}  # fmt: skip
SMOKE = "configs/imagenet22k.py:large_fl4,smoke"


@pytest.fixture(scope="module")
def config():
    small = ["--config.model.depths=(1,)", "--config.model.num_classes=10", "--config.data.image_size=16"]
    return load_config(SMOKE, small, optional=["data.path"])


@pytest.mark.parametrize(
    ("topology", "message"),
    [
        ("v5:2x2", "Did you mean 'v5p' or 'v5e'"),
        ("v5e", "expected a TPU with its shape"),
        ("v5e:0x4", "expected a TPU with its shape"),
        ("v5e:2x2x2", "expected a TPU with its shape"),
        ("v4:2x2", "expected a TPU with its shape"),
        ("v5e:2x6", "no v5e has this shape; expected 1x1, 2x2"),
        ("v6e:32x32", "no v6e has this shape"),
        ("v4:2x6x2", "no v4 has this shape; expected 2x2x1"),
        ("v5p:4x4x6", "no v5p has this shape"),
        ("h100:12", "a multiple of 8"),
        ("h100:0", "expected 1 to 8 GPUs"),
        ("h100:x", "expected 1 to 8 GPUs"),
        ("h100:1048576", "or a multiple of 8 up to 16384"),
        ("", "expected a TPU with its shape"),
    ],
)
def test_a_topology_that_does_not_exist_is_refused_in_one_line(topology, message):
    with pytest.raises(UserError, match=message) as caught:
        describe_devices(topology)
    assert "\n" not in str(caught.value)


# The command on a machine without a compiler, whatever is installed here.
WITHOUT_COMPILERS = """
import importlib.util, runpy
find = importlib.util.find_spec
absent = ("libtpu", "jax_cuda12_plugin")
importlib.util.find_spec = lambda name, *rest: None if name in absent else find(name, *rest)
runpy.run_module("focalnet_jax.aot", run_name="__main__")
"""


@pytest.mark.parametrize(
    ("topology", "message"), [("v5e:4x4", "pip install 'focalnet_jax[tpu]'"), ("h100:8", "jax-cuda12-plugin==")]
)
def test_a_compiler_that_is_not_installed_is_named(topology, message):
    done = run("-c", WITHOUT_COMPILERS, "--config", SMOKE, "--topology", topology)
    assert_one_line_mistake(done, message)


def test_every_chip_is_found_by_what_jax_calls_it():
    for chip in CHIPS.values():
        assert find_chip(chip.kind) is chip
    assert find_chip("TPU v5p") is CHIPS["v5p"]
    assert find_chip("NVIDIA H100 80GB HBM3") is CHIPS["h100"]
    assert find_chip("cpu") is None


def test_a_compiled_step_is_reported_with_all_its_figures(config):
    mesh = make_mesh({"data": 2, "fsdp": 4, "tensor": 1})
    for step in ("train", "eval"):
        attempt = compile_step(config, mesh, CHIPS["v5e"], step)
        result = json.loads(json.dumps(summary(config, "here", mesh, CHIPS["v5e"], attempt)))
        assert result.keys() >= KEYS
        assert result["fits"] is True
        assert result["devices"] == 8
        assert result["batch_per_device"] == 2
        assert result["estimated_step_seconds"] is None  # this compiler does not estimate cycles
        assert 0 < result["hbm_bytes_per_device"] < 2**30
        assert sum(result["collective_bytes_per_device"].values()) > 0
        assert "estimate" in result["source"]
        assert "no estimate by this compiler" in table(result)


@pytest.mark.parametrize("recipe", ["mask_rcnn_coco.py:tiny_srf", "upernet_ade20k.py:tiny_srf"])
@pytest.mark.parametrize("head", ["drop", "auto"])
def test_a_recipe_that_requires_data_and_weights_is_compiled_without_them(monkeypatch, capsys, recipe, head):
    monkeypatch.setattr(topology, "describe_devices", lambda *_: (jax.devices()[:1], CHIPS["v5e"]))
    compiled = Attempt("train", 16, "none", True, 2**30, 3_000_000, {}, 1.0)
    monkeypatch.setattr(compilation, "compile_step", lambda *_: compiled)
    small = ["--config.model.depths=(1, 1)", f"--config.init_head={head}"]
    assert main(["--config", f"configs/{recipe}", "--topology", "v5e:1x1", *small]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["fits"]


def test_a_batch_that_does_not_divide_is_refused_before_anything_is_compiled(config):
    with pytest.raises(UserError, match="cannot be split evenly over 8 devices"):
        compile_step(compilation._with(config, batch_size=12), make_mesh({"data": 8, "fsdp": 1, "tensor": 1}),
                     CHIPS["v5e"], "train")  # fmt: skip


def refused(complaint):
    """A program that the compiler rejects."""

    def compiled(compiler_options=None):
        raise jax.errors.JaxRuntimeError(complaint)

    return SimpleNamespace(compile=compiled)


def test_a_program_too_large_for_the_device_is_distinguished_from_a_wrong_one():
    of_memory = "RESOURCE_EXHAUSTED: Ran out of memory in memory space"
    with pytest.raises(DoesNotFitError, match=r"it requests 32\.5 GB; give fewer or smaller images") as caught:
        compile_fitting(refused(f"{of_memory} hbm. Used 30.25G of 15.75G hbm."))
    assert caught.value.requested == 30.25 * 2**30
    with pytest.raises(DoesNotFitError) as caught:
        compile_fitting(refused("RESOURCE_EXHAUSTED: without a number"))
    assert caught.value.requested is None
    kernels = [f"{of_memory} {space}. Used 17.1M of 16M {space}." for space in ("vmem", "smem")]
    for complaint in (*kernels, "INTERNAL: Mosaic failed"):
        with pytest.raises(jax.errors.JaxRuntimeError):
            compile_fitting(refused(complaint))


def fake(memory_an_image, capacity=1000.0):
    """A compiler for which each remat policy needs a fixed amount of memory per image."""

    def compiled(config, mesh, chip, step):
        needed = memory_an_image[config.remat] * config.batch_size
        return Attempt(step, config.batch_size, config.remat, needed <= capacity, needed, 7, {}, 1.0)

    return compiled


@pytest.mark.parametrize(
    ("memory_an_image", "cheapest", "largest"),
    [
        ({"auto": 10, "dots": 5, "full": 2}, "auto", 480),
        ({"auto": 100, "dots": 50, "full": 2}, "dots", 480),
        ({"auto": 500, "dots": 400, "full": 100}, None, 8),
        ({"auto": 500, "dots": 400, "full": 300}, None, None),
    ],
)
def test_the_search_finds_the_cheapest_policy_and_the_largest_batch(
    config, monkeypatch, memory_an_image, cheapest, largest
):
    monkeypatch.setattr(compilation, "compile_step", fake(memory_an_image))
    mesh = make_mesh({"data": 8, "fsdp": 1, "tensor": 1})
    chip = SimpleNamespace(memory=1000)
    _, found = search(config, mesh, chip, "train")
    assert found["suggested_remat"] == cheapest
    assert found["largest_batch"] == largest  # or up to an eighth below the limit


def test_the_search_tries_only_batches_a_run_could_have(config, monkeypatch):
    tried = []

    def compiled(config, mesh, chip, step):
        tried.append(config.batch_size)
        return fake({"auto": 60, "dots": 60, "full": 60})(config, mesh, chip, step)

    monkeypatch.setattr(compilation, "compile_step", compiled)
    mesh = make_mesh({"data": 8, "fsdp": 1, "tensor": 1})
    _, found = search(compilation._with(config, batch_size=24), mesh, SimpleNamespace(memory=1000), "train")
    assert found["largest_batch"] == 16
    assert all(batch % 8 == 0 for batch in tried)
    tried.clear()
    mixed = load_config(SMOKE, ["--config.batch_size=384"], optional=["data.path"])  # images are mixed in groups of 128
    search(mixed, mesh, SimpleNamespace(memory=1000), "train")
    assert all(batch % min(128, batch) == 0 for batch in tried)


def test_an_estimate_is_cycles_over_the_clock_and_the_models_flops_over_that(config):
    mesh = make_mesh({"data": 8, "fsdp": 1, "tensor": 1})
    parts = {"aggregation": 2_400_000, "mlp": 600_000}
    attempt = Attempt("train", 16, "none", True, 2**30, 3_000_000, {"all-reduce": 10}, 1.0, parts)
    result = summary(config, "v5e:2x4", mesh, CHIPS["v5e"], attempt)
    assert result["estimated_step_seconds"] == 0.002
    assert result["images_per_second_per_device"] == 16 / 0.002 / 8
    assert result["estimated_mfu"] == pytest.approx(result["flops_per_step"] / (0.002 * 8 * 197e12))
    assert result["estimated_seconds_by_part"] == {"aggregation": 0.0016, "mlp": 0.0004}
    assert "compiler's estimate, not a measurement" in table(result)
    assert "of which   aggregation 80%; mlp 20%" in table(result)


@pytest.mark.parametrize(
    ("found", "line"),
    [
        (("dots", 480, "full"), "suggests   remat dots at this batch; at most batch 480 with remat full"),
        ((None, 8, "full"), "suggests   this batch fits with no remat policy; at most batch 8 with remat full"),
        ((None, None, None), "suggests   this batch fits with no remat policy; no batch fits"),
    ],
)
def test_the_table_says_what_the_search_found(config, found, line):
    mesh = make_mesh({"data": 8, "fsdp": 1, "tensor": 1})
    attempt = Attempt("train", 16, "full", False, None, None, None, 1.0)
    suggestion = dict(zip(("suggested_remat", "largest_batch", "largest_batch_remat"), found, strict=True))
    result = summary(config, "v5e:2x4", mesh, CHIPS["v5e"], attempt) | suggestion
    assert table(result).splitlines()[-1] == line


class Described:
    """A device that does not exist here, as described by a topology."""

    platform = "tpu"
    device_kind = "TPU v5 lite"

    def __init__(self, index, slice_index=0, cores=1):
        self.id, self.slice_index, self.process_index = index, slice_index, index // (4 * cores)
        self.coords, self.core_on_chip = (index // cores % 4, index // cores // 4 % 2, 0), index % cores


def test_only_data_goes_over_slices():
    devices = [Described(index, index // 8) for index in range(16)]
    mesh = make_mesh({"data": -1, "fsdp": 4, "tensor": 1}, devices)
    slices = np.vectorize(lambda device: device.slice_index)(mesh.devices)  # [data, fsdp, tensor]
    assert (slices == slices[:, :1]).all()
    assert mesh.shape["data"] == 4
    with pytest.raises(UserError, match=r"mesh.data=1 is not a multiple of the 2 slices: expected one of 2, 4, 8, 16"):
        make_mesh({"data": 1, "fsdp": 16, "tensor": 1}, devices)
    assert jax.device_count() == 8


def test_every_mesh_of_a_topology_is_made():
    """An axis may use a part of a physical axis: 16 devices in two rows of 8."""
    devices = [Described(index, index // 8) for index in range(16)]
    for sizes in ((2, 2, 4), (2, 4, 2), (2, 8, 1), (4, 2, 2), (16, 1, 1), (2, 1, 8)):
        mesh = make_mesh(dict(zip(("data", "fsdp", "tensor"), sizes, strict=True)), devices)
        assert tuple(mesh.shape.values()) == sizes


def test_all_devices_of_several_hosts_belong_to_the_mesh_though_they_are_not_here():
    devices = [Described(index) for index in range(8)]
    with pytest.raises(UserError, match="is a mesh of 4 devices, but there are 8 devices of 2 processes"):
        make_mesh({"data": 4, "fsdp": 1, "tensor": 1}, devices)
    assert make_mesh({"data": 4, "fsdp": 1, "tensor": 1}, devices[:4]).size == 4


def test_two_devices_a_chip_make_a_mesh_too():
    devices = [Described(index, cores=2) for index in range(16)]
    for device in devices:
        device.device_kind = "TPU v4"
    mesh = make_mesh({"data": 2, "fsdp": -1, "tensor": 1}, devices)
    assert [device.id for device in mesh.devices.flat] == list(range(16))
    assert mesh.shape["fsdp"] == 8
