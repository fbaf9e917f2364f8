"""What a run is, printed before it starts."""

from __future__ import annotations

from pathlib import Path

import flax
import jax
from jax.sharding import Mesh
from ml_collections import FrozenConfigDict

from focalnet_jax.model import FocalNetConfig, summarize
from focalnet_jax.training.setup import Data, Plan
from focalnet_jax.version import __version__


def print_banner(
    config: FrozenConfigDict,
    model: FocalNetConfig,
    data: Data,
    plan: Plan,
    mesh: Mesh,
    *,
    origin: str,
    workdir: Path,
) -> None:
    """Versions, devices, model, data, the arithmetic of batches and steps, and where the run starts from."""
    size = config.data.image_size
    summary = summarize(model, size)
    devices = mesh.devices.flatten()
    per_device = config.batch_size // mesh.shape["data"]
    axes = " ".join(f"{axis}={length}" for axis, length in mesh.shape.items())
    classes = len(data.train.class_names)
    outputs = (
        f"{model.num_classes} outputs"
        if classes == model.num_classes
        else f"{model.num_classes} outputs, of \
which the data uses {classes}"
    )
    rows = {
        "versions": f"focalnet_jax {__version__}, jax {jax.__version__}, flax {flax.__version__}",
        "devices": f"{len(devices)} x {devices[0].device_kind}, {jax.process_count()} process(es), mesh {axes}",
        "model": f"{config.model.name}, {summary.params:,} parameters, {summary.macs / 1e9:.3f} GMACs at {size} px, "
        f"{config.precision}, {outputs}",
        "data": f"{config.data.source}: {len(data.train)} to train on, {len(data.evaluation)} to evaluate, "
        f"{classes} classes",
        "batch": f"{config.batch_size} = {per_device} a device x {mesh.shape['data']}; {plan.steps_per_epoch} steps "
        f"an epoch; {plan.total} steps = {plan.total / plan.steps_per_epoch:.2f} epochs, {plan.warmup} of warm-up",
        "start": origin,
        "workdir": str(workdir),
    }
    print("\n".join(f"{name:<10}{value}" for name, value in rows.items()), flush=True)
