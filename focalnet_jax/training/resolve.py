"""Chooses the values that a config leaves to the machine, the data and the weights.

A run chooses once and stores the values with its config and its checkpoints; a resumed run and an evaluation take them
from there (`stored_config.with_stored`), on any machine.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import FrozenConfigDict

from focalnet_jax.config import duration, is_auto, model_config, replaced
from focalnet_jax.convert.recognise import NOT_FROM_SHAPES
from focalnet_jax.convert.start import Start, read_start
from focalnet_jax.data.source import Source
from focalnet_jax.distributed.chips import find_chip
from focalnet_jax.distributed.startup import from_first
from focalnet_jax.errors import UserError
from focalnet_jax.model import summarize, variant_config
from focalnet_jax.settings import settings_of
from focalnet_jax.tasks import task_kind

_FIRST_WITH_BFLOAT16 = 8.0  # NVIDIA's compute capability: Ampere
_MOST_THREADS = 16
_EVAL_BATCH_ON_CPUS = 64
_LARGE_ON_CPUS = 256
_WATCHDOG_SECONDS, _WATCHDOG_SECONDS_ON_CPUS = 900.0, 14400.0
_SMALL = {"embed_dim": 32, "depths": (2, 2, 4, 2)}  # 2.7 M parameters; 35 MMACs at 64 px
_SMALL_MACS = 35e6
# Number of training images over all epochs: on accelerators, and with the small model on two CPU cores.
_EXAMPLES, _EXAMPLES_ON_CPUS = 1_000_000, 60_000
_EPOCHS, _EPOCHS_FROM_WEIGHTS = (20, 200), (5, 40)  # smallest and largest number of epochs
_WARMUP_SHARE = 0.05
_STEPS_PER_EPOCH = 10  # smallest number of steps, if the batch size is chosen


def resolve(
    config: FrozenConfigDict,
    mesh: Mesh,
    source: Source | None = None,
    evaluated: str | None = None,
    which: str | None = None,
    name: str | None = None,
    options: Mapping[str, bool] | None = None,
) -> FrozenConfigDict:
    """Returns the config with a value for everything that it leaves open; prints the choices in one line.

    Args:
      config: config of a run or of an evaluation.
      mesh: mesh of the devices that the run or evaluation uses.
      source: the training examples; without them, keys that depend on them cannot be chosen.
      evaluated: path of the checkpoint to evaluate; its model and image size then replace those of the config.
      which: selection among several weights in the file, as for `read_weights`.
      name: variant of the evaluated weights, as for `read_weights`.
      options: options of the evaluated weights, as for `read_weights`.

    Raises:
      UserError: a choice depends on training images that are missing, or the weights cannot be read.
    """
    path = evaluated or config.init_from
    by_weights = ("model.name", "data.image_size", "init_head", *settings_of(config.task).AUTO)
    start = None
    if path and any(is_auto(config, key) for key in by_weights):
        which, head = (which, "keep") if evaluated else (config.init_weights, "drop")
        given, assumed = _stated_options(config)
        start = read_start(path, which, head, name, given | dict(options or {}), assumed)
    chosen: dict[str, Any] = {}

    def choose(key: str, value: Any) -> None:
        if is_auto(config, key):
            chosen[key] = value

    on_cpus = mesh.devices.flat[0].platform == "cpu"
    if is_auto(config, "model.name"):
        chosen |= _model(config, start, on_cpus)
    choose("data.image_size", start.image_size if start else 64 if on_cpus else 224)
    choose("precision", "bfloat16" if has_bfloat16(mesh.devices.flat[0]) else "float32")
    if evaluated:
        choose("batch_size", _EVAL_BATCH_ON_CPUS * mesh.shape["data"] * mesh.shape["fsdp"])
    if evaluated or source is not None:
        chosen |= task_kind(config.task).choose(config, start, source)
    if source is not None:
        choose("batch_size", _batch_size(config, mesh, len(source), on_cpus))
        chosen |= _schedule(replaced(config, chosen), len(source), on_cpus)
    elif not evaluated and config.batch_size is not None:  # a step is compiled without data
        choose("schedule.learning_rate", _learning_rate(config))
    by_data = (*settings_of(config.task).AUTO, "batch_size")
    missing = [key for key in by_data if is_auto(config, key) and key not in chosen]
    if missing and not evaluated:
        raise UserError(
            f"{missing[0]}=auto is chosen from the training images: give --config.data.path=... or --config."
            f"{missing[0]}=..."
        )
    if chosen:
        print(f"chosen     {', '.join(f'{key}={value}' for key, value in chosen.items())}", flush=True)
    return replaced(config, chosen)


def _stated_options(config: FrozenConfigDict) -> tuple[dict[str, bool], dict[str, bool] | None]:
    """Returns the options of the model that shapes of weights do not determine: set by the user, and of its variant."""
    given = {key: config.model[key] for key in NOT_FROM_SHAPES if config.model[key] is not None}
    if is_auto(config, "model.name"):
        return given, None
    variant = variant_config(config.model.name)
    return {}, {key: getattr(variant, key) for key in NOT_FROM_SHAPES} | given


def _model(config: FrozenConfigDict, start: Start | None, on_cpus: bool) -> dict[str, Any]:
    """Returns the model of the weights; without weights, a small model on CPUs and FocalNet-T elsewhere."""
    name = "focalnet_tiny_srf"
    own = settings_of(config.task).AUTO
    if start is None:
        options: dict[str, Any] = dict(_SMALL) if on_cpus else {}
    else:
        name = start.name or name
        plain = variant_config(name)
        options = {
            field: getattr(start.model, field)
            for field in config.model
            if hasattr(plain, field) and getattr(start.model, field) != getattr(plain, field)
        }
        options = {field: value for field, value in options.items() if f"model.{field}" not in own}
        options.pop("drop_path_rate", None)  # of its training
    free = {f"model.{field}": value for field, value in options.items() if config.model[field] is None}
    return {"model.name": name} | free


def _batch_size(config: FrozenConfigDict, mesh: Mesh, examples: int, on_cpus: bool) -> int:
    """Returns a batch size for ten steps per epoch, a power of two if possible; at most 32, or 64 per accelerator."""
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    unit = parts * config.accumulate_steps
    most = 32 if on_cpus else 64 * parts
    wanted = 2 ** int(math.log2(max(examples / _STEPS_PER_EPOCH, 1)))
    return max(min(max(wanted, 8), most, examples) // unit, 1) * unit


def _schedule(config: FrozenConfigDict, examples: int, on_cpus: bool) -> dict[str, Any]:
    """Returns values for those of duration, learning rate and warm-up that the config leaves open."""
    chosen: dict[str, Any] = {}
    if config.total_steps is None and config.total_epochs is None:
        seen = _EXAMPLES
        if on_cpus:
            macs = summarize(model_config(config), config.data.image_size).macs
            seen = _EXAMPLES_ON_CPUS * from_first(cpus()) / 2 * _SMALL_MACS / macs
        least, most = _EPOCHS_FROM_WEIGHTS if config.init_from else _EPOCHS
        chosen["total_epochs"] = float(round(min(max(seen / examples, least), most)))
    if is_auto(config, "schedule.learning_rate"):
        chosen["schedule.learning_rate"] = _learning_rate(config)
    warmup = config.schedule.warmup_steps, config.schedule.warmup_epochs
    if warmup[0] == "auto" or (warmup == (None, None) and "schedule.learning_rate" in chosen):
        total = replaced(config, chosen)
        chosen["schedule.warmup_steps"] = _warmup(duration(total, "total", examples // config.batch_size or 1) or 1)
    return chosen


def _learning_rate(config: FrozenConfigDict) -> float:
    """Returns the peak learning rate: lower for given weights, and with the root of a batch below 64."""
    peak = 2e-4 if config.init_from else 1e-3
    return float(f"{peak * min(math.sqrt(config.batch_size / 64), 1):.1e}")


def _warmup(steps: int) -> int:
    """Returns the number of warm-up steps of a run of this length."""
    return round(_WARMUP_SHARE * steps)


def with_open_warmup(stored: dict[str, Any], examples: int) -> dict[str, Any]:
    """Returns the stored config of a run on `examples` images, with a warm-up of "auto" if it was chosen by length.

    A run that continues it then chooses its own. A warm-up that the user set stays, unless it equals the choice.
    """
    steps = duration(FrozenConfigDict(stored), "total", examples // stored["batch_size"] or 1)
    if steps is None or stored["schedule"]["warmup_steps"] != _warmup(steps):
        return stored
    return stored | {"schedule": stored["schedule"] | {"warmup_steps": "auto"}}


def slow_here(config: FrozenConfigDict, mesh: Mesh) -> list[str]:
    """Returns one warning for each setting of a resolved config that is slow on CPUs."""
    if mesh.devices.flat[0].platform != "cpu":
        return []
    texts = []
    if config.precision == "bfloat16":
        texts.append(
            "precision=bfloat16 on a CPU takes about twice the time of float32 (measured: 165 and 318 images/s on two "
            "cores); a new run with --config.precision=auto or float32 is faster"
        )
    at_once = config.batch_size // config.accumulate_steps
    if at_once > _LARGE_ON_CPUS:
        texts.append(
            f"{at_once} images at once need much memory on a CPU: --config.accumulate_steps="
            f"{config.batch_size // 32} computes the same update in parts of 32"
        )
    return texts


def has_bfloat16(device: jax.Device) -> bool:
    """Returns whether a device multiplies bfloat16 faster than float32: TPUs, and NVIDIA GPUs since Ampere."""
    if device.platform == "tpu":
        return True
    if device.platform not in ("gpu", "cuda"):
        return False
    try:
        return float(device.compute_capability) >= _FIRST_WITH_BFLOAT16
    except (AttributeError, TypeError, ValueError):  # a described device, or not one of NVIDIA
        return find_chip(device.device_kind) is not None


def cpus() -> int:
    """Returns the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def reader_threads(config: FrozenConfigDict) -> int:
    """Returns `data.threads`, or one per CPU core, at most 16; `data.workers` share the cores."""
    if config.data.threads is not None:
        return config.data.threads
    return min(max(cpus() // max(config.data.workers, 1), 1), _MOST_THREADS)


def eval_batch_size(config: FrozenConfigDict, mesh: Mesh) -> int:
    """Returns `eval_batch_size`, by default the batch size, on CPUs at most 64: larger batches are no faster there."""
    if config.eval_batch_size is not None:
        return config.eval_batch_size
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    most = max(_EVAL_BATCH_ON_CPUS // parts, 1) * parts
    return min(config.batch_size, most) if mesh.devices.flat[0].platform == "cpu" else config.batch_size


def watchdog_seconds(config: FrozenConfigDict, mesh: Mesh) -> float:
    """Returns `health.watchdog_seconds`, by default 900, or 14400 on CPUs."""
    on_cpus = mesh.devices.flat[0].platform == "cpu"
    return config.health.watchdog_seconds or (_WATCHDOG_SECONDS_ON_CPUS if on_cpus else _WATCHDOG_SECONDS)
