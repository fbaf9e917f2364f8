"""The summary of a run that is printed before it starts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import flax
import jax
from jax.sharding import Mesh
from ml_collections import FrozenConfigDict

from focalnet_jax import __version__
from focalnet_jax.data.preprocessing import in_words
from focalnet_jax.distributed.sharding import describe_sharding
from focalnet_jax.model.summary import Summary
from focalnet_jax.ops.implementations import describe_implementations
from focalnet_jax.settings import MAIN
from focalnet_jax.training.data import TrainData
from focalnet_jax.training.evaluation import EvalData
from focalnet_jax.training.plan import Plan
from focalnet_jax.training.state import Params


def print_banner(
    config: FrozenConfigDict,
    model: Summary,
    data: TrainData,
    evaluations: Mapping[str, EvalData],
    plan: Plan,
    mesh: Mesh,
    params: Params,
    *,
    origin: str,
    workdir: Path,
) -> None:
    """Prints versions, devices, model, data, batch size, number of steps, and the origin of the initial state."""
    added = dict(data.task.banner())

    def extended(row: str, text: str) -> str:
        return ", ".join(filter(None, (text, added.pop(row, ""))))

    held = [f"{len(data.source)} to train on", f"{len(evaluations[MAIN].evaluation.source)} to evaluate"]
    held += [f"{len(other.evaluation.source)} as {name}" for name, other in evaluations.items() if name != MAIN]
    devices = mesh.devices.flatten()
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    per_device = config.batch_size // parts // config.accumulate_steps
    micro_batches = f" x {config.accumulate_steps} micro-batches" if config.accumulate_steps > 1 else ""
    axes = " ".join(f"{axis}={length}" for axis, length in mesh.shape.items())
    steps = plan.total - plan.first
    rows = {
        "versions": f"focalnet_jax {__version__}, jax {jax.__version__}, flax {flax.__version__}",
        "devices": f"{len(devices)} x {devices[0].device_kind}, {jax.process_count()} process(es), mesh {axes}",
        "model": extended(
            "model",
            f"{config.model.name}, {model.params:,} parameters, {_macs(model.macs)} at "
            f"{in_words(config.data.image_size)} px, {config.precision}",
        ),
        "ops": describe_implementations(config.model, config.precision, devices[0].platform),
        "placement": describe_sharding(params, mesh),
        "data": extended("data", f"{config.data.source}: {', '.join(held)}"),
        "batch": f"{config.batch_size} = {per_device} per device x {parts}{micro_batches}; "
        f"{plan.steps_per_epoch} steps per epoch; {steps} steps = {steps / plan.steps_per_epoch:.2f} epochs, "
        f"{plan.warmup} of warm-up",
        "start": origin,
        "workdir": str(workdir),
    } | added
    print("\n".join(f"{name:<11}{value}" for name, value in rows.items()), flush=True)


def _macs(count: int) -> str:
    return f"{count / 1e9:.2f} GMACs" if count >= 1e8 else f"{count / 1e6:.2f} MMACs"
