"""Chooses values for the config keys that are left open, from the devices, the data and the weights.

A run chooses once, and stores the values in its config file and its checkpoints. A resumed run and an evaluation use
the stored values on any machine, see `stored_config.with_stored`.
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
from focalnet_jax.convert.start import Start
from focalnet_jax.data.source import Source
from focalnet_jax.distributed.chips import find_chip
from focalnet_jax.distributed.host_values import from_first
from focalnet_jax.errors import UserError
from focalnet_jax.model import summarize, variant_config
from focalnet_jax.settings import settings_of
from focalnet_jax.tasks import task_kind

_FIRST_WITH_BFLOAT16 = 8.0  # compute capability of NVIDIA Ampere
_MOST_THREADS = 16
_EVAL_BATCH_ON_CPUS = 64
_LARGE_ON_CPUS = 256
_WATCHDOG_SECONDS, _WATCHDOG_SECONDS_ON_CPUS = 900.0, 14400.0
_SMALL = {"embed_dim": 32, "depths": (2, 2, 4, 2)}  # 2.7 M parameters; 35 MMACs at 64 px
_SMALL_MACS = 35e6
# Number of training images over all epochs, on accelerators, and on two CPU cores with the small model.
_EXAMPLES, _EXAMPLES_ON_CPUS = 1_000_000, 60_000
_EPOCHS, _EPOCHS_FROM_WEIGHTS = (20, 200), (5, 40)  # smallest and largest number of epochs
_WARMUP_SHARE = 0.05
_STEPS_PER_EPOCH = 10  # smallest number of steps per epoch if the batch size is chosen automatically


def resolve(
    config: FrozenConfigDict,
    mesh: Mesh,
    source: Source | None = None,
    evaluated: str | None = None,
    which: str | None = None,
    name: str | None = None,
    options: Mapping[str, bool] | None = None,
) -> FrozenConfigDict:
    """Returns the config with a value for every key that is left open, and prints the choices in one line.

    Args:
      config: config of a run or of an evaluation.
      mesh: mesh of the devices that the run or evaluation uses.
      source: training examples. Without them, keys that depend on the training data cannot be chosen.
      evaluated: path of the weights to evaluate; keys of the model and the image size that are left open get the
        values stored with these weights.
      which: name of the weights in a file with several models, see `read_weights`.
      name: variant of the evaluated weights, see `read_weights`.
      options: options of the evaluated weights, see `read_weights`.

    Raises:
      UserError: a key cannot be chosen without training images, or the weights cannot be read.
    """
    path = evaluated or config.init_from
    by_weights = ("model.name", "data.image_size", "init_head", *settings_of(config.task).AUTO)
    start = None
    if path and any(is_auto(config, key) for key in by_weights):
        which, head = (which, "keep") if evaluated else (config.init_weights, "drop")
        given, assumed = _stated_options(config)
        start = task_kind(config.task).read_start(path, which, head, name, given | dict(options or {}), assumed)
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
    elif not evaluated and config.batch_size is not None:  # to compile a step without data
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
    """Returns the values of the model options that the shapes of weights do not determine.

    Returns:
      Two dicts by option. If the model is to be chosen: the values that the user set, and None. If `model.name` is set:
      {}, and the values of the config's model, to assume if the weights do not specify them.
    """
    given = {key: config.model[key] for key in NOT_FROM_SHAPES if config.model[key] is not None}
    if is_auto(config, "model.name"):
        return given, None
    variant = variant_config(config.model.name)
    return {}, {key: getattr(variant, key) for key in NOT_FROM_SHAPES} | given


def _model(config: FrozenConfigDict, start: Start | None, on_cpus: bool) -> dict[str, Any]:
    """Returns values for the keys of the model that are left open.

    The values are the architecture stored with the weights. Without weights, they are a small model on CPUs, and
    FocalNet-T on other devices.
    """
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
        options.pop("drop_path_rate", None)  # a setting of the training of the weights
    free = {f"model.{field}": value for field, value in options.items() if config.model[field] is None}
    return {"model.name": name} | free


def _batch_size(config: FrozenConfigDict, mesh: Mesh, examples: int, on_cpus: bool) -> int:
    """Returns a batch size for about ten or more steps per epoch.

    It is a power of two of at least 8, limited to 32 on CPUs, to 64 per accelerator, and to `examples`. It is then
    rounded to a multiple of the number of devices that share a batch, times `accumulate_steps`.
    """
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    unit = parts * config.accumulate_steps
    most = 32 if on_cpus else 64 * parts
    wanted = 2 ** int(math.log2(max(examples / _STEPS_PER_EPOCH, 1)))
    return max(min(max(wanted, 8), most, examples) // unit, 1) * unit


def _schedule(config: FrozenConfigDict, examples: int, on_cpus: bool) -> dict[str, Any]:
    """Returns values for duration, learning rate and warm-up, where the config leaves them open."""
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
    """Returns the peak learning rate: 2e-4 with `init_from`, else 1e-3.

    The learning rate is multiplied by sqrt(batch size / 64) for batch sizes below 64.
    """
    peak = 2e-4 if config.init_from else 1e-3
    return float(f"{peak * min(math.sqrt(config.batch_size / 64), 1):.1e}")


def _warmup(steps: int) -> int:
    """Returns the number of warm-up steps of a run with `steps` steps."""
    return round(_WARMUP_SHARE * steps)


def with_open_warmup(stored: dict[str, Any], examples: int | None) -> dict[str, Any]:
    """Returns the stored config of a run, with "auto" for an automatically chosen warm-up.

    A run that continues the stored run then chooses its own warm-up. A warm-up counts as chosen if it has the length
    that would be chosen.

    Args:
      stored: config of the run, with all keys, see `stored_config.with_defaults`.
      examples: number of training images of the run. If it is None (unknown), the warm-up counts as not chosen.
    """
    if examples is None:
        return stored
    steps = duration(FrozenConfigDict(stored), "total", examples // stored["batch_size"] or 1)
    if steps is None or stored["schedule"]["warmup_steps"] != _warmup(steps):
        return stored
    return stored | {"schedule": stored["schedule"] | {"warmup_steps": "auto"}}


def slow_here(config: FrozenConfigDict, mesh: Mesh) -> list[str]:
    """Returns one warning for each setting of a resolved config that is slow or needs much memory on CPUs."""
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
            f"{config.batch_size // 32} computes the same update in micro-batches of 32"
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
    except (AttributeError, TypeError, ValueError):  # a device of a topology for compilation only, or not an NVIDIA GPU
        return find_chip(device.device_kind) is not None


def cpus() -> int:
    """Returns the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def reader_threads(config: FrozenConfigDict) -> int:
    """Returns the number of threads of each reading process: `data.threads`, by default one per CPU core, at most 16.

    If `data.workers` is set, these processes share the cores.
    """
    if config.data.threads is not None:
        return config.data.threads
    return min(max(cpus() // max(config.data.workers, 1), 1), _MOST_THREADS)


def eval_batch_size(config: FrozenConfigDict, mesh: Mesh) -> int:
    """Returns `eval_batch_size`, by default the batch size of training.

    The default is at most 64 on CPUs, where larger batches are not faster.
    """
    if config.eval_batch_size is not None:
        return config.eval_batch_size
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    most = max(_EVAL_BATCH_ON_CPUS // parts, 1) * parts
    return min(config.batch_size, most) if mesh.devices.flat[0].platform == "cpu" else config.batch_size


def watchdog_seconds(config: FrozenConfigDict, mesh: Mesh) -> float:
    """Returns `health.watchdog_seconds`, by default 900, or 14400 on CPUs."""
    on_cpus = mesh.devices.flat[0].platform == "cpu"
    return config.health.watchdog_seconds or (_WATCHDOG_SECONDS_ON_CPUS if on_cpus else _WATCHDOG_SECONDS)
