"""Describes the result of a compilation as a table and as one JSON object."""

from __future__ import annotations

from typing import Any

from jax.sharding import Mesh
from ml_collections import FrozenConfigDict

from focalnet_jax.aot.compilation import Attempt
from focalnet_jax.data.preprocessing import in_words
from focalnet_jax.distributed.chips import Chip
from focalnet_jax.tasks import task_kind

_PASSES = {"train": 3, "eval": 1}  # cost in forward passes; a backward pass costs two
_PARTS = 8  # number of parts in the table
SOURCE = "compiler's estimate, not a measurement; without communication between devices"


def summary(config: FrozenConfigDict, topology: str, mesh: Mesh, chip: Chip, attempt: Attempt) -> dict[str, Any]:
    """Returns the metrics of a compilation by name, with None for metrics that the compiler does not estimate.

    `flops_per_step`, and therefore `estimated_mfu`, does not count recomputation (remat). `estimated_step_seconds` is
    from the TPU compiler's cost model: the sum of the cycles of all operations, counted once per iteration of their
    loops. `estimated_seconds_by_part` divides it into parts, see `ledger.cycles_by_part`.
    """
    devices = mesh.devices.size
    task = task_kind(config.task).make_task(config, evaluated=False)
    macs = task.summarize().macs
    flops = 2 * macs * attempt.batch * _PASSES[attempt.step]
    seconds = attempt.cycles / chip.clock if attempt.cycles and chip.clock else None
    return {
        "topology": topology,
        "devices": devices,
        "chip": chip.name,
        "mesh": dict(mesh.shape),
        "model": config.model.name,
        "image_size": config.data.image_size,
        **task.facts(),
        "outputs": task.banner()["model"],
        "precision": config.precision,
        "step": attempt.step,
        "global_batch": attempt.batch,
        "batch_per_device": attempt.batch // (mesh.shape["data"] * mesh.shape["fsdp"]),
        "accumulate_steps": config.accumulate_steps,
        "remat": attempt.remat,
        "fits": attempt.fits,
        "hbm_bytes_per_device": attempt.memory,
        "hbm_capacity_bytes": chip.memory,
        "flops_per_step": flops,
        "estimated_step_seconds": seconds,
        "estimated_seconds_by_part": {name: cycles / chip.clock for name, cycles in attempt.parts.items()}
        if seconds
        else None,
        "estimated_mfu": flops / (seconds * devices * chip.flops) if seconds else None,
        "images_per_second_per_device": attempt.batch / seconds / devices if seconds else None,
        "collective_bytes_per_device": None if attempt.sent is None else dict(attempt.sent),
        "compile_seconds": round(attempt.seconds, 1),
        "source": SOURCE,
    }


def table(result: dict[str, Any]) -> str:
    """Returns the metrics of `summary` as a table."""
    outputs = f"{result['outputs']}, " if "outputs" in result else ""  # not in reports of earlier versions
    memory, capacity = result["hbm_bytes_per_device"], result["hbm_capacity_bytes"] / 2**30
    seconds, sent = result["estimated_step_seconds"], result["collective_bytes_per_device"]
    axes = " ".join(f"{axis}={length}" for axis, length in result["mesh"].items())
    rows = {
        "topology": f"{result['topology']}, {result['devices']} x {result['chip']}, mesh {axes}",
        "model": f"{result['model']}, {in_words(result['image_size'])} px, {outputs}"
        f"{result['precision']}, remat {result['remat']}",
        "step": f"{result['step']}, batch {result['global_batch']}, {result['batch_per_device']} per device",
        "memory": f"{'fits' if result['fits'] else 'does not fit'}: "
        f"{'?' if memory is None else f'{memory / 2**30:.2f}'} of {capacity:.0f} GiB per device",
        "computes": f"{result['flops_per_step'] / 1e12:.2f} TFLOP per step",
        "sends": "?"
        if sent is None
        else f"{sum(sent.values()) / 1e6:.1f} MB per device and step"
        + "".join(f", {kind} {size / 1e6:.1f}" for kind, size in sent.items()),
        "time": ("no estimate by this compiler" if result["fits"] else "none: it does not fit")
        if seconds is None
        else f"{seconds:.4f} s per step, {result['images_per_second_per_device']:.0f} images/s per device, "
        f"MFU {result['estimated_mfu']:.1%}: {SOURCE}",
    }
    if parts := result.get("estimated_seconds_by_part"):  # not in reports of earlier versions
        first = list(parts.items())[:_PARTS]
        rows["of which"] = "; ".join(f"{name} {part / seconds:.0%}" for name, part in first)
    if "suggested_remat" in result:
        remat, largest = result["suggested_remat"], result["largest_batch"]
        rows["suggests"] = "; ".join(
            (
                f"remat {remat} at this batch" if remat else "this batch fits with no remat policy",
                f"at most batch {largest} with remat {result['largest_batch_remat']}" if largest else "no batch fits",
            )
        )
    return "\n".join(f"{name:<11}{value}" for name, value in rows.items())
