"""One mesh with axes `data`, `fsdp` and `tensor` over all devices; batches are split, parameters replicated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from focalnet_jax.errors import UserError

AXES = ("data", "fsdp", "tensor")
BATCH = PartitionSpec(("data", "fsdp"))  # the leading axis of everything that holds examples


def make_mesh(sizes: Mapping[str, int], devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of the given axis sizes; one of them may be -1 for the devices that remain.

    Raises:
      UserError: the sizes do not multiply to the number of devices, or shard parameters (not built yet).
    """
    devices = jax.devices() if devices is None else list(devices)
    shape = [sizes[axis] for axis in AXES]
    if shape[1:] != [1, 1]:
        raise UserError(
            f"mesh.fsdp={shape[1]} mesh.tensor={shape[2]}: parameters are replicated in this version; "
            "set both to 1 and use mesh.data"
        )
    if shape[0] == -1:
        shape[0] = len(devices)
    if jax.process_count() > 1 and shape[0] != len(devices):
        raise UserError(
            f"mesh.data={sizes['data']} on {len(devices)} devices of {jax.process_count()} processes: every process "
            f"takes part with all its devices; set it to {len(devices)} or -1"
        )
    if not 0 < shape[0] <= len(devices):
        raise UserError(
            f"mesh.data={sizes['data']} on {len(devices)} devices; expected 1 to {len(devices)}, or -1 for all"
        )
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * 3, devices=devices[: shape[0]])


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def split_by_example(mesh: Mesh) -> NamedSharding:
    """The sharding of a batch along its leading axis."""
    return NamedSharding(mesh, BATCH)


def check_batch_size(key: str, size: int, mesh: Mesh, micro_batches: int = 1) -> int:
    """`size` if devices and micro-batches split it evenly, otherwise `UserError` with the nearest sizes they do."""
    devices = mesh.shape["data"] * mesh.shape["fsdp"]
    shards = devices * micro_batches
    if size < 1 or size % shards:
        below, above = size // shards * shards, (max(size, 0) // shards + 1) * shards
        valid = " or ".join(str(n) for n in (below, above) if n > 0)
        over = f"{devices} devices" + (f" x {micro_batches} accumulate_steps" if micro_batches > 1 else "")
        raise UserError(f"{key}={size} does not divide over {over}; the nearest sizes that do: {valid}")
    return size


def put_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This host's slice of a batch as global arrays, split along the leading axis."""
    sharding = split_by_example(mesh)
    return {name: jax.make_array_from_process_local_data(sharding, value) for name, value in batch.items()}
