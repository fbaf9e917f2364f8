"""The configuration of a run: keys with their defaults and meanings, checks of their values, durations."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict, FrozenConfigDict, config_dict

from focalnet_jax.errors import UserError
from focalnet_jax.model.variants import FocalNetConfig, variant_config
from focalnet_jax.settings import checks_of, settings_of
from focalnet_jax.settings.evaluations import check_evaluations
from focalnet_jax.settings.keys import anything, number


def default_config(task: str = "classification") -> ConfigDict:
    """Returns the default config of a task, which has all of its keys.

    None means not set; the comment next to a key describes that case. The keys in `auto_keys` may be "auto"
    (numbers: None), see `focalnet_jax.training.resolve`.
    """
    config = ConfigDict()
    config.task = task  # one of settings.TASKS, which sets its own keys

    config.model = ConfigDict()
    # A variant, or auto: the variant of init_from, or one that the hardware trains from scratch in reasonable time.
    config.model.name = "focalnet_tiny_srf"
    # Any option of the variant (model/variants.py) can be replaced; None keeps the variant's value.
    for name in FocalNetConfig.__dataclass_fields__:
        if name not in ("num_classes", "in_channels", "remat"):
            config.model[name] = config_dict.placeholder(object)
    config.remat = "auto"  # recomputed in the backward pass: auto (the fastest choice), none, dots, full
    # Dtype of activations: float32, bfloat16, or auto (bfloat16 where hardware supports it). Parameters are float32.
    config.precision = "float32"

    config.batch_size = number(1024)  # global, over all devices of all hosts; auto: chosen by data and devices
    config.eval_batch_size = config_dict.placeholder(int)  # None: batch_size, on CPUs at most 64
    config.accumulate_steps = 1  # number of parts that a batch is computed in, one after the other, to save memory
    # Durations are `*_epochs` or `*_steps`, not both; one given on the command line replaces the other.
    # If neither is set, the length depends on the number of training images.
    config.total_epochs = config_dict.placeholder(float)
    config.total_steps = config_dict.placeholder(int)
    config.seed = 0
    config.init_from = config_dict.placeholder(str)  # initial weights: a workdir, a step, .pth, .safetensors
    config.init_weights = config_dict.placeholder(str)  # which weights in init_from: ema, or a key or prefix
    # Continue from a workdir (its newest step) or a step: weights, optimizer state, average and step count. Durations
    # count from there, with a new schedule.
    config.continue_from = config_dict.placeholder(str)
    # The task's head in init_from: keep, drop (initialize a new one), remap (ImageNet-22K's classes to 1K's), or auto
    # (keep it if its outputs fit the data).
    config.init_head = "keep"

    # Decay of the exponential moving average of the weights, which is evaluated and exported in their place; 0: none.
    config.ema_decay = 0.0

    config.optimizer = ConfigDict()
    config.optimizer.name = "adamw"  # adamw, lamb, lion or sgd
    config.optimizer.b1 = 0.9  # decay of the first moment; momentum of sgd
    config.optimizer.b2 = 0.999
    config.optimizer.eps = 1e-8
    config.optimizer.weight_decay = 0.05
    config.optimizer.clip_norm = 5.0  # global gradient norm; 0: no clipping
    config.optimizer.layer_decay = 1.0  # factor of the learning rate from every layer to the one before it
    # Pairs of a pattern of path names and a factor, such as (("^patch_embed/", 0), ("^head/", 10)).
    config.optimizer.learning_rate_scales = ()  # factors of the learning rate; 0 freezes
    config.optimizer.weight_decay_scales = ()  # factors of weight decay; the default is 1 for kernels, 0 for others

    config.schedule = ConfigDict()
    # Peak, not scaled by batch size; auto: by batch size and init_from, with a warm-up if none is set.
    config.schedule.learning_rate = number(1e-3)
    config.schedule.min_learning_rate = 1e-5
    config.schedule.warmup_learning_rate = 1e-6
    config.schedule.warmup_epochs = config_dict.placeholder(float)
    config.schedule.warmup_steps = config_dict.placeholder(int)

    config.data = ConfigDict()
    config.data.source = "digits"  # digits, folder or tfds
    # folder: the directory of the splits; tfds: a prepared directory, or the name of a data set
    config.data.path = config_dict.placeholder(str)
    config.data.train_split = "train"
    config.data.eval_split = "val"
    # Pixels per side, or (height, width); auto: the size stored with init_from, or 224, on CPUs 64
    config.data.image_size = anything(224)
    config.data.interpolation = "bicubic"  # in training too: bicubic, bilinear, lanczos, box, hamming, nearest
    config.data.mean = config_dict.placeholder(tuple)  # red, green and blue in [0, 1]; None: ImageNet's
    config.data.std = config_dict.placeholder(tuple)
    # Threads per process that decode and augment; None: one per CPU core, at most 16.
    config.data.threads = config_dict.placeholder(int)
    config.data.workers = 0  # reader processes per process; 0: threads of the process itself
    config.data.stall_seconds = 300.0  # the run fails if no batch comes for this time
    config.data.max_unreadable = 1e-4  # largest fraction of training images that may be unreadable and replaced

    config.mesh = ConfigDict()
    config.mesh.data = -1  # devices along each axis; -1: the rest
    config.mesh.fsdp = 1
    config.mesh.tensor = 1

    config.grace_seconds = 25.0  # time to end a step and save after SIGTERM or SIGINT
    config.health = ConfigDict()
    config.health.max_skipped = 10  # consecutive updates skipped for NaN, infinity or a loss spike before the run fails
    # The run fails if it makes no progress for this time; None: 900, or 14400 on CPUs, whose steps may take long.
    config.health.watchdog_seconds = config_dict.placeholder(float)
    config.health.spike_factor = 0.0  # a loss above this multiple of its running mean is a spike; 0: no check

    config.log_every_steps = 50
    config.writers = ("tensorboard",)  # in addition to metrics.jsonl: tensorboard, wandb, mlflow
    config.profile_steps = ()  # (first, last) to trace, into workdir/profile
    config.compilation_cache = "~/.cache/focalnet_jax"  # folder of compiled programs to reuse; "": none
    config.log_statistics = False  # also log the norm of every parameter and gradient
    config.log_maps = 0  # number of validation images whose modulators and gates TensorBoard shows
    config.eval_every_epochs = config_dict.placeholder(float)  # if neither is set: at the end
    config.eval_every_steps = config_dict.placeholder(int)
    config.checkpoint_every_epochs = config_dict.placeholder(float)  # if neither is set: at evaluations
    config.checkpoint_every_steps = config_dict.placeholder(int)
    config.keep_latest = 3  # number of newest checkpoints kept
    config.keep_best = 1  # number of checkpoints kept with the best value of the task's main metric
    # Further evaluations by name, see `settings.evaluations.evaluation`; --config.evaluations.NAME.KEY=VALUE adds one.
    config.evaluations = ConfigDict()
    settings_of(task).add_keys(config)
    config.lock()  # so that a config file cannot set a key that does not exist
    config.evaluations.unlock()
    return config


# Keys whose value may be chosen by the data, the weights and the machine: "auto", or None for numbers. The choice is
# stored with the run and kept wherever it is resumed. A task may add keys, see `auto_keys`.
AUTO = (
    "model.name",
    "precision",
    "batch_size",
    "init_head",
    "schedule.learning_rate",
    "data.image_size",
)
# Keys for which None is resolved on each machine at every start: no result depends on them.
BY_MACHINE = ("data.threads", "eval_batch_size", "health.watchdog_seconds")

REQUIRED = "(required)"  # value in a config file of a path that only the user knows


def check_values(config: ConfigDict, optional: Sequence[str] = ()) -> None:
    """Checks all values that can be checked without data and devices.

    Args:
      config: the config.
      optional: keys that need no value even if the recipe requires one.

    Raises:
      UserError: a value is missing, invalid, or contradicts another; names the key and the expected values.
    """
    values = flatten(config)
    for key, value in values.items():
        if value == REQUIRED and key not in optional:
            raise UserError(f"this recipe needs {key}: add --config.{key}=...")
    if config.init_head not in ("keep", "auto") and config.init_from is None:
        raise UserError(f"init_head={config.init_head} applies to the weights of init_from, which is not set")
    if config.init_weights is not None and config.init_from is None:
        raise UserError(f"init_weights={config.init_weights} applies to the file of init_from, which is not set")
    if config.continue_from is not None and config.init_from is not None:
        raise UserError("continue_from and init_from are both set; give one of them")
    for key, default in flatten(default_config(config.task)).items():
        if default is not None and values[key] is None and key not in auto_keys(config):
            raise UserError(f"{key}=None: expected a value, such as the default {default!r}")
    for key, (fits, expected) in checks_of(config.task).items():
        if values[key] is not None and not fits(values[key]):
            raise UserError(f"{key}={values[key]}: expected {expected}")
    check_evaluations(config.evaluations)


def expand_paths(config: ConfigDict) -> None:
    """Replaces a leading `~` by the home directory in the keys that hold a path, which config files may contain.

    `compilation_cache` keeps its `~`: the config must be the same on hosts with different home directories.
    """
    evaluations = [(given, "path") for given in config.evaluations.values() if isinstance(given, ConfigDict)]
    for section, key in ((config.data, "path"), (config, "init_from"), (config, "continue_from"), *evaluations):
        if isinstance(section.get(key), str):
            section[key] = os.path.expanduser(section[key])


def duration(config: ConfigDict, key: str, steps_per_epoch: int, default: int | None = None) -> int | None:
    """Returns the duration `key` in steps: `key_steps`, or `key_epochs` rounded to steps.

    Raises:
      UserError: both keys are set, or the duration is not positive.
    """
    values = flatten(config)
    steps, epochs = values[f"{key}_steps"], values[f"{key}_epochs"]
    if steps is not None and epochs is not None:
        raise UserError(f"{key}_steps={steps} and {key}_epochs={epochs} are both set; give one of them")
    if steps is None and epochs is None:
        return default
    given = f"{key}_steps={steps}" if steps is not None else f"{key}_epochs={epochs}"
    exact = steps if steps is not None else epochs * steps_per_epoch
    least = 0 if key.endswith("warmup") else 1
    # Steps are counted in 32 bits.
    if not (-math.inf < exact < math.inf and least <= round(exact) < 2**31):
        unit = f" ({steps_per_epoch} steps per epoch)" if steps is None else ""
        raise UserError(f"{given}{unit}: expected {least} to 2**31 - 1 steps")
    return round(exact)


def auto_keys(config: ConfigDict | FrozenConfigDict) -> tuple[str, ...]:
    """Returns the keys of a config that may be "auto" or None to be chosen: `AUTO` and those of its task."""
    return AUTO + settings_of(config.task).AUTO


def model_config(config: ConfigDict | FrozenConfigDict) -> FocalNetConfig:
    """Returns the variant with the config's overrides."""
    options = config.model.to_dict()
    return variant_config(options.pop("name"), remat=config.remat, **options)


def flatten(config: ConfigDict | FrozenConfigDict) -> dict[str, Any]:
    """Returns values by dotted key."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            flat |= {f"{key}.{inner}": leaf for inner, leaf in flatten(value).items()}
        else:
            flat[key] = value
    return flat


def to_json(config: ConfigDict | FrozenConfigDict) -> str:
    """Returns the config as JSON."""
    return json.dumps(config.to_dict(), indent=2) + "\n"


def is_auto(config: ConfigDict | FrozenConfigDict, key: str) -> bool:
    """Returns whether the value of one of `auto_keys` is still to be chosen."""
    return flatten(config)[key] in (None, "auto")


def replaced(config: ConfigDict | FrozenConfigDict, values: Mapping[str, Any]) -> FrozenConfigDict:
    """Returns the config with the given values of some dotted keys."""
    nested = config.to_dict()
    for key, value in values.items():
        *parents, leaf = key.split(".")
        section = nested
        for parent in parents:
            section = section[parent]
        section[leaf] = value
    return FrozenConfigDict(nested)
