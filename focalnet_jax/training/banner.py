"""What a run is, printed before it starts."""

from __future__ import annotations

from pathlib import Path

import flax
import jax
from jax.sharding import Mesh
from ml_collections import FrozenConfigDict

from focalnet_jax import __version__
from focalnet_jax.data.preprocessing import in_words
from focalnet_jax.distributed.sharding import describe
from focalnet_jax.model.summary import Summary
from focalnet_jax.ops.implementations import describe_implementations
from focalnet_jax.training.setup import EvalData, Plan, TrainData
from focalnet_jax.training.step import Params


def print_banner(
    config: FrozenConfigDict,
    model: Summary,
    data: tuple[TrainData, EvalData],
    plan: Plan,
    mesh: Mesh,
    params: Params,
    *,
    origin: str,
    workdir: Path,
) -> None:
    """Versions, devices, model, data, the arithmetic of batches and steps, and where the run starts from."""
    train, evaluation = (split.source for split in data)
    devices = mesh.devices.flatten()
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    per_device = config.batch_size // parts // config.accumulate_steps
    micro_batches = f" x {config.accumulate_steps} micro-batches" if config.accumulate_steps > 1 else ""
    axes = " ".join(f"{axis}={length}" for axis, length in mesh.shape.items())
    classes, outputs = len(train.class_names), config.model.num_classes
    steps = plan.total - plan.first
    unused = f", of which the data uses {classes}" if classes < outputs else ""
    rows = {
        "versions": f"focalnet_jax {__version__}, jax {jax.__version__}, flax {flax.__version__}",
        "devices": f"{len(devices)} x {devices[0].device_kind}, {jax.process_count()} process(es), mesh {axes}",
        "model": f"{config.model.name}, {model.params:,} parameters, {_macs(model.macs)} at "
        f"{in_words(config.data.image_size)} px, {config.precision}, {outputs} outputs{unused}",
        "forms": describe_implementations(config.model, config.precision, devices[0].platform),
        "placement": describe(params, mesh),
        "data": f"{config.data.source}: {len(train)} to train on, {len(evaluation)} to evaluate, {classes} classes",
        "batch": f"{config.batch_size} = {per_device} a device x {parts}{micro_batches}; "
        f"{plan.steps_per_epoch} steps an epoch; {steps} steps = {steps / plan.steps_per_epoch:.2f} epochs, "
        f"{plan.warmup} of warm-up",
        "start": origin,
        "workdir": str(workdir),
    }
    print("\n".join(f"{name:<11}{value}" for name, value in rows.items()), flush=True)


def _macs(count: int) -> str:
    return f"{count / 1e9:.2f} GMACs" if count >= 1e8 else f"{count / 1e6:.2f} MMACs"
