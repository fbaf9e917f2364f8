"""Describes absent devices to JAX, with the properties that its compilers need."""

from __future__ import annotations

import importlib.util
import math
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from importlib.resources import files

import jax
from jax.experimental import topologies

from focalnet_jax.aot import bundles
from focalnet_jax.distributed.chips import CHIPS, Chip
from focalnet_jax.errors import UserError, suggest

_TPUS = {"v4": 3, "v5e": 2, "v5p": 3, "v6e": 2}  # number of dimensions of their networks
# Valid shapes: _FLAT of v5e and v6e; _SMALL of v4 and v5p up to a cube of 64 chips. Larger v4 and v5p consist of cubes.
# cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e}
_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_SMALL = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4")
_MOST_CUBES = {"v4": 64, "v5p": 140}
_GPUS = ("a100", "h100")  # described in gpus/NAME.txtpb
_GPUS_A_HOST = 8
_MOST_GPUS, _MOST_SLICES = 16384, 64  # more are not useful, and describing them would take minutes
_JAX_TAKES = 0.75  # default of XLA_PYTHON_CLIENT_MEM_FRACTION
_CORES = {"v4": 2, "v5p": 2}  # cores per chip, otherwise 1; JAX may count each core as a device
_EXPECTED = (
    "expected a TPU with its shape, such as v5e:4x4, v4:2x2x4, v5p:2x2x2 or v6e:8x8, or a GPU with the number of GPUs, "
    "such as a100:8 or h100:16"
)
# libtpu reads these when it is loaded; without them it searches for a TPU.
_TPU_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def describe_devices(topology: str, slices: int = 1) -> tuple[Sequence[jax.Device], Chip]:
    """Returns the devices of a topology such as `v5e:4x4` or `h100:8` to compile for, and the properties of a device.

    Args:
      topology: the name of a TPU and the shape of its network, or the name of a GPU and the number of GPUs.
      slices: number of slices, connected by the data centre's network.

    Raises:
      UserError: the topology does not exist, or the package of its compiler is not installed.
    """
    name, _, shape = topology.partition(":")
    if name not in (*_TPUS, *_GPUS):
        raise UserError(f"--topology {topology}: {_EXPECTED}.{suggest(name, [*_TPUS, *_GPUS])}")
    if not 0 < slices <= _MOST_SLICES:
        raise UserError(f"--slices {slices}: expected 1 to {_MOST_SLICES}")
    if name in _TPUS:
        return _tpus(topology, name, shape, slices)
    return _gpus(topology, name, shape, slices)


def _tpus(topology: str, name: str, shape: str, slices: int) -> tuple[Sequence[jax.Device], Chip]:
    lengths = [int(length) for length in shape.split("x")] if re.fullmatch(r"\d+(x\d+)*", shape) else []
    if len(lengths) != _TPUS[name] or not all(lengths):
        raise UserError(f"--topology {topology}: {_EXPECTED}")
    if not _exists(name, shape, lengths):
        valid = ", ".join(
            _FLAT if _TPUS[name] == 2 else (*_SMALL, "or multiples of 4 in ascending order, such as 4x4x8")
        )
        raise UserError(f"--topology {topology}: no {name} has this shape; expected {valid}")
    if not importlib.util.find_spec("libtpu"):
        raise UserError(f"--topology {topology} needs the compiler for TPUs: pip install 'focalnet_jax[tpu]'")
    bundles.folder()
    for key, value in _TPU_ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    # Four chips per host; a smaller shape is one host.
    host = [min(length, 2) for length in lengths[:2]] + [1]
    try:
        devices = topologies.get_topology_desc(
            topology, platform="tpu", num_slices=slices, chips_per_host_bounds=host
        ).devices
    except (RuntimeError, ValueError) as error:
        raise UserError(f"--topology {topology}: no TPU has this shape ({_first_line(error)}); {_EXPECTED}") from error
    cores = _CORES.get(name, 1) // getattr(devices[0], "num_cores", 1)
    chip = CHIPS[name]
    if cores > 1:
        chip = replace(chip, name=f"{chip.name} core", flops=chip.flops / cores, memory=chip.memory // cores)
    return devices, chip


def _exists(name: str, shape: str, lengths: list[int]) -> bool:
    if _TPUS[name] == 2:
        return shape in _FLAT
    cubes = math.prod(lengths) // 64
    whole = lengths == sorted(lengths) and all(length % 4 == 0 for length in lengths)
    return shape in _SMALL or (whole and cubes <= _MOST_CUBES[name])


def _gpus(topology: str, name: str, shape: str, slices: int) -> tuple[Sequence[jax.Device], Chip]:
    count = int(shape) if re.fullmatch(r"[1-9]\d*", shape) else 0
    hosts = max(count // _GPUS_A_HOST, 1)
    if not 0 < count <= _MOST_GPUS or (count > _GPUS_A_HOST and count % _GPUS_A_HOST):
        raise UserError(
            f"--topology {topology}: expected 1 to {_GPUS_A_HOST} GPUs, or a multiple of {_GPUS_A_HOST} up to "
            f"{_MOST_GPUS}"
        )
    if not importlib.util.find_spec("jax_cuda12_plugin"):
        raise UserError(
            f"--topology {topology} needs the compiler for GPUs: pip install --no-deps "
            f"jax-cuda12-plugin=={jax.__version__} jax-cuda12-pjrt=={jax.__version__}"
        )
    described = (files("focalnet_jax.aot") / "gpus" / f"{name}.txtpb").read_text()
    try:
        devices = topologies.get_topology_desc(
            platform="cuda", target_config=described, topology=f"{slices}x{hosts}x{count // hosts}"
        ).devices
    except (RuntimeError, ValueError) as error:
        raise UserError(f"--topology {topology} is rejected by the compiler: {_first_line(error)}") from error
    return devices, replace(CHIPS[name], memory=round(_share_of_memory() * CHIPS[name].memory))


def _share_of_memory() -> float:
    """Returns the fraction of a GPU's memory that JAX reserves."""
    share = os.environ.get("XLA_PYTHON_CLIENT_MEM_FRACTION", _JAX_TAKES)
    try:
        return float(share)
    except ValueError:
        raise UserError(f"XLA_PYTHON_CLIENT_MEM_FRACTION={share} in the environment: expected a number") from None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
