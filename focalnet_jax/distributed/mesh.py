"""The mesh with axes `data`, `fsdp` and `tensor` over all devices; batches are split over the first two."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from focalnet_jax.errors import UserError

AXES = ("data", "fsdp", "tensor")
BATCH = PartitionSpec(("data", "fsdp"))  # partition of the leading axis of batches


def make_mesh(sizes: Mapping[str, int], devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns a mesh of the given axis sizes, of which one may be -1 for the remaining devices.

    If the devices are in several slices, connected by the data centre's network, only the axis `data` crosses slices.

    Args:
      sizes: size of each axis in `AXES`.
      devices: devices of the mesh, by default all devices.

    Raises:
      UserError: a size is invalid; the product of the sizes is not the number of devices (it may be smaller if all
        devices belong to one process); or `data` is not a multiple of the number of slices.
    """
    devices = jax.devices() if devices is None else list(devices)
    shape = [sizes[axis] for axis in AXES]
    given = " ".join(f"mesh.{axis}={size}" for axis, size in zip(AXES, shape, strict=True))
    known = math.prod(size for size in shape if size != -1)
    if shape.count(-1) > 1 or any(size < 1 and size != -1 for size in shape):
        raise UserError(f"{given}: expected positive numbers, one of which may be -1 for the remaining devices")
    if -1 in shape:
        if len(devices) % known:
            divisors = ", ".join(str(n) for n in range(1, len(devices) + 1) if len(devices) % n == 0)
            raise UserError(
                f"{given}: {known} does not divide the {len(devices)} devices; expected sizes whose product is one of "
                f"{divisors}"
            )
        shape[shape.index(-1)] = len(devices) // known
    count = math.prod(shape)
    hosts = len({device.process_index for device in devices})
    if count > len(devices) or (hosts > 1 and count != len(devices)):
        processes = f" of {hosts} processes" if hosts > 1 else ""
        raise UserError(
            f"{given} is a mesh of {count} devices, but there are {len(devices)} devices{processes}: give sizes whose "
            f"product is {len(devices)}, or -1 for one of them"
        )
    types = (AxisType.Auto,) * 3
    slices = len({getattr(device, "slice_index", 0) for device in devices[:count]})
    if slices == 1 and (count < len(devices) or any(getattr(device, "core_on_chip", 0) for device in devices)):
        # JAX may not be able to order a part of a host's devices, or two devices per chip (as `aot` describes a v4), so
        # they stay in the given order.
        return Mesh(np.array(devices[:count]).reshape(shape), AXES, axis_types=types)
    # The physical axes may be split, because this keeps neighbours together, and some shapes do not exist otherwise.
    if slices == 1:
        placed = mesh_utils.create_device_mesh(shape, devices[:count], allow_split_physical_axes=True)
        return Mesh(placed, AXES, axis_types=types)
    if shape[0] % slices:
        valid = ", ".join(str(n) for n in range(slices, len(devices) + 1, slices) if len(devices) % n == 0)
        raise UserError(f"mesh.data={shape[0]} is not a multiple of the {slices} slices: expected one of {valid}")
    within = (shape[0] // slices, *shape[1:])
    placed = mesh_utils.create_hybrid_device_mesh(
        within, (slices, 1, 1), devices[:count], allow_split_physical_axes=True
    )
    return Mesh(placed, AXES, axis_types=types)


def run_mesh(sizes: Mapping[str, int], devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns the mesh of a run over `devices`, by default all devices.

    Raises:
      UserError: some devices would be idle, or the mesh is invalid (see `make_mesh`).
    """
    devices = jax.devices() if devices is None else devices
    mesh, count = make_mesh(sizes, devices), len(devices)
    if mesh.size != count:
        sizes = " ".join(f"mesh.{axis}={size}" for axis, size in mesh.shape.items())
        raise UserError(f"{sizes} would use {mesh.size} of {count} devices: give sizes whose product is {count}")
    return mesh


_COMPILER_OPTIONS = {
    "tpu": {"xla_jf_spmd_threshold_for_windowed_einsum_mib": "1000000"},
    "cpu": {"xla_cpu_prefer_vector_width": "512"},
}


def compiler_options(mesh: Mesh) -> dict[str, str]:
    """Returns compiler options for the devices of a mesh.

    On TPUs, a sharded weight is gathered before it is multiplied. By default, the compiler multiplies by one shard
    while it fetches the next, but FocalNet's weights are narrow: a 16th of a weight leaves most of a matrix unit idle.
    By the compiler's estimate, FocalNet-L at fsdp=16 would take 3.3 times as long (docs/scale.md).

    On CPUs, the full width of AVX-512's vector registers is used instead of half of it (docs/performance.md).
    """
    return _COMPILER_OPTIONS.get(mesh.devices.flat[0].platform, {})


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of arrays that every device stores completely."""
    return NamedSharding(mesh, PartitionSpec())


def split_by_example(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a batch along its leading axis."""
    return NamedSharding(mesh, BATCH)


def check_batch_size(key: str, size: int, mesh: Mesh, micro_batches: int = 1) -> int:
    """Returns `size` after checking that the mesh can split the batch evenly.

    Args:
      key: name of the config key, for the message.
      size: global batch size.
      mesh: the mesh, whose axes `data` and `fsdp` split the batch.
      micro_batches: number of micro-batches per step.

    Raises:
      UserError: the mesh cannot split the batch evenly; the message has the nearest valid sizes.
    """
    devices = mesh.shape["data"] * mesh.shape["fsdp"]
    shards = devices * micro_batches
    if size < 1 or size % shards:
        below, above = size // shards * shards, (max(size, 0) // shards + 1) * shards
        valid = " or ".join(str(n) for n in (below, above) if n > 0)
        over = f"{devices} devices" + (f" x {micro_batches} accumulate_steps" if micro_batches > 1 else "")
        raise UserError(f"{key}={size} cannot be split evenly over {over}; the nearest valid sizes: {valid}")
    return size


@dataclass(frozen=True)
class LocalPlaces:
    """Selects the examples that this process reads from every global batch: the shards of its devices in `mesh`.

    If the channels of an example are split over several hosts, each of these hosts reads the example.
    """

    mesh: Mesh

    def slice(self, batch_size: int) -> tuple[int, ...]:
        """Returns the indices in the global batch of the examples that this process reads, ascending."""
        shards = split_by_example(self.mesh).addressable_devices_indices_map((batch_size,)).values()
        return tuple(sorted({index for (part,) in shards for index in range(*part.indices(batch_size))}))

    def counted(self, batch_size: int) -> np.ndarray:
        """Returns which examples of `slice` this process counts, `[N]` bool, so that each example is counted once.

        If several processes read an example, the process with the lowest index counts it.
        """
        lowest = np.full(batch_size, jax.process_count())
        for device, (part,) in split_by_example(self.mesh).devices_indices_map((batch_size,)).items():
            lowest[part] = np.minimum(lowest[part], device.process_index)
        return lowest[list(self.slice(batch_size))] == jax.process_index()


def put_exchanged(values: Sequence[int], mesh: Mesh) -> jax.Array:
    """Returns an int32 array `[devices, N]` whose sum over devices is the sum of the `values` of all processes.

    Args:
      values: N integers of this process.
      mesh: mesh of the run.
    """
    local = sum(device.process_index == jax.process_index() for device in mesh.devices.flat)
    rows = np.zeros((local, len(values)), np.int32)
    rows[0] = values
    return jax.make_array_from_process_local_data(NamedSharding(mesh, PartitionSpec(AXES)), rows)


def put_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Returns global arrays, sharded along the leading axis, from this process's part of a batch."""
    sharding = split_by_example(mesh)
    return {name: jax.make_array_from_process_local_data(sharding, value) for name, value in batch.items()}
