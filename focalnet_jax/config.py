"""The config of a run: its keys with defaults and meanings, checks of their values, and durations in steps."""

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
from focalnet_jax.storage.address import CACHE


def default_config(task: str = "classification") -> ConfigDict:
    """Returns the default config of a task, which has all of its keys.

    None means not set; the comment next to a key describes this case. For a key in `auto_keys`, the value "auto" (or
    None) means that the value is chosen automatically, see `focalnet_jax.training.resolve`.
    """
    config = ConfigDict()
    config.task = task  # name of the task, which adds its own keys

    config.model = ConfigDict()
    # Name of a variant; auto: the variant of init_from, or one that this hardware trains in reasonable time.
    config.model.name = "focalnet_tiny_srf"
    # Any option of the variant (model/variants.py) can be replaced; None keeps the variant's value.
    for name in FocalNetConfig.__dataclass_fields__:
        if name not in ("num_classes", "in_channels", "remat"):
            config.model[name] = config_dict.placeholder(object)
    # Activations to recompute in the backward pass, to save memory: auto (the fastest choice), none, dots or full
    config.remat = "auto"
    # Dtype of activations: float32, bfloat16, or auto (bfloat16 where hardware supports it). Parameters are float32.
    config.precision = "float32"

    config.batch_size = number(1024)  # examples per step on all devices of all hosts; auto: chosen by data and devices
    config.eval_batch_size = config_dict.placeholder(int)  # None: batch_size, on CPUs at most 64
    config.accumulate_steps = 1  # number of micro-batches that a batch is divided into, to save memory
    # Durations are set by `*_epochs` or `*_steps`, not both. If the command line sets one, it replaces the other.
    # If total_epochs and total_steps are not set, the length depends on the number of training images.
    config.total_epochs = config_dict.placeholder(float)
    config.total_steps = config_dict.placeholder(int)
    config.seed = 0
    config.init_from = config_dict.placeholder(str)  # initial weights: a workdir, a step, .pth, .safetensors, hf://
    config.init_weights = config_dict.placeholder(str)  # which of several models in init_from: ema, or a key or prefix
    # Run to continue: a workdir (its newest step) or a step. Its weights, optimizer state, average and step count are
    # used. Durations count from that step, with a new schedule.
    config.continue_from = config_dict.placeholder(str)
    # The task's head in init_from: keep, drop (initialize a new one), remap (ImageNet-22K's classes to 1K's), or auto
    # (keep it if its outputs fit the data).
    config.init_head = "keep"

    # Decay of the exponential moving average (EMA) of the weights, which is evaluated and exported; 0: no average.
    config.ema_decay = 0.0

    config.optimizer = ConfigDict()
    config.optimizer.name = "adamw"  # adamw, lamb, lion or sgd
    config.optimizer.b1 = 0.9  # decay of the first moment; momentum of sgd
    config.optimizer.b2 = 0.999
    config.optimizer.eps = 1e-8
    config.optimizer.weight_decay = 0.05
    config.optimizer.clip_norm = 5.0  # global gradient norm; 0: no clipping
    config.optimizer.layer_decay = 1.0  # factor of the learning rate from each layer to the layer before it
    # Pairs of a regular expression for parameter names and a factor, such as (("^patch_embed/", 0), ("^head/", 10)).
    config.optimizer.learning_rate_scales = ()  # factors of the learning rate; 0 freezes parameters
    config.optimizer.weight_decay_scales = ()  # factors of weight decay; by default 1 for kernels, 0 for others

    config.schedule = ConfigDict()
    # Decay after the warm-up: cosine; poly, (1 - step / steps) ** power as in mmsegmentation, which also multiplies the
    # warm-up; or step, drops as in mmdetection
    config.schedule.name = "cosine"
    config.schedule.power = 1.0  # of poly
    config.schedule.drops = (9 / 12, 11 / 12)  # of step: fractions of the run after which the learning rate drops
    config.schedule.drop_factor = 0.1  # of step: factor that multiplies the learning rate at each drop
    # Peak, not scaled by batch size; auto: depends on batch size and init_from, and adds a warm-up if none is set.
    config.schedule.learning_rate = number(1e-3)
    config.schedule.min_learning_rate = 1e-5
    config.schedule.warmup_learning_rate = 1e-6
    config.schedule.warmup_epochs = config_dict.placeholder(float)
    config.schedule.warmup_steps = config_dict.placeholder(int)

    config.data = ConfigDict()
    # classification: digits, folder, tfds, parquet or webdataset; segmentation: digits, bluemarble, folder or tfds;
    # detection: digits, trees, nuclei, coco or tfds
    config.data.source = "digits"
    # folder: the directory of the splits; coco: the directory of annotations and images; tfds: a prepared directory, or
    # the name of a data set; parquet, webdataset: a folder, a file, a pattern, or an address
    # hf://datasets/ORG/NAME[@REVISION][/FOLDER]; all but patterns may be gs://
    config.data.path = config_dict.placeholder(str)
    config.data.cache = CACHE  # folder on each host for copies of data in buckets and for indices of shards
    config.data.train_split = "train"
    config.data.eval_split = "val"
    # Pixels per side, or (height, width); auto: the size stored with init_from, or 224, on CPUs 64
    config.data.image_size = anything(224)
    # Interpolation of resizing, in training and evaluation: bicubic, bilinear, lanczos, box, hamming or nearest
    config.data.interpolation = "bicubic"
    config.data.mean = config_dict.placeholder(tuple)  # red, green and blue in [0, 1]; None: ImageNet's values
    config.data.std = config_dict.placeholder(tuple)
    # Threads per process that decode and augment; None: one per CPU core, at most 16.
    config.data.threads = config_dict.placeholder(int)
    config.data.workers = 0  # reader processes per process; 0: the process itself reads with its threads
    config.data.stall_seconds = 300.0  # the run fails if no batch arrives within this time
    config.data.max_unreadable = 1e-4  # the run fails if a larger fraction of training images is unreadable

    config.mesh = ConfigDict()
    config.mesh.data = -1  # number of devices along each axis of the mesh; -1: all remaining devices
    config.mesh.fsdp = 1
    config.mesh.tensor = 1

    config.grace_seconds = 25.0  # time to finish a step and save after SIGTERM or SIGINT
    config.health = ConfigDict()
    # The run fails after this many consecutive updates were skipped for NaN, infinity or a loss spike.
    config.health.max_skipped = 10
    # The run fails if it makes no progress for this time; None: 900, or 14400 on CPUs, whose steps may take long.
    config.health.watchdog_seconds = config_dict.placeholder(float)
    config.health.spike_factor = 0.0  # a loss above this multiple of its running mean is a spike; 0: no check

    config.log_every_steps = 50
    config.writers = ("tensorboard",)  # loggers in addition to metrics.jsonl: tensorboard, wandb, mlflow
    config.profile_steps = ()  # (first, last) step to trace; the trace is written to WORKDIR/profile
    config.compilation_cache = "~/.cache/focalnet_jax"  # folder of compiled programs to reuse; "": no cache
    config.log_statistics = False  # also log the norm of every parameter and gradient
    config.log_maps = 0  # number of validation images whose modulators and gates TensorBoard shows
    # Number of validation images that TensorBoard and reports show with their predictions and the ground truth
    config.log_predictions = 0
    config.eval_every_epochs = config_dict.placeholder(float)  # if neither is set: at the end of the run
    config.eval_every_steps = config_dict.placeholder(int)
    config.checkpoint_every_epochs = config_dict.placeholder(float)  # if neither is set: at every evaluation
    config.checkpoint_every_steps = config_dict.placeholder(int)
    config.keep_latest = 3  # number of newest checkpoints to keep
    config.keep_best = 1  # number of checkpoints with the best values of the task's main metric to keep
    # More evaluations by name, see `settings.evaluations.evaluation`; --config.evaluations.NAME.KEY=VALUE adds one.
    config.evaluations = ConfigDict()
    settings_of(task).add_keys(config)
    config.lock()  # so that a config file cannot set a key that does not exist
    config.evaluations.unlock()
    return config


# Keys that may be "auto" (None for numbers), so that the value is chosen from the data, the weights and the machine.
# The choice is stored with the run, and a resumed run keeps it on any machine. A task may add keys, see `auto_keys`.
AUTO = (
    "model.name",
    "precision",
    "batch_size",
    "init_head",
    "schedule.learning_rate",
    "data.image_size",
)
# Keys for which None means a value chosen on each machine at every start. No result depends on these keys.
BY_MACHINE = ("data.threads", "eval_batch_size", "health.watchdog_seconds")

REQUIRED = "(required)"  # value, in a config file, of a key that the user must set, such as a path


def check_values(config: ConfigDict, optional: Sequence[str] = ()) -> None:
    """Checks all values that can be checked without data and devices.

    Args:
      config: the config.
      optional: keys that need no value even if the recipe requires one.

    Raises:
      UserError: a value is missing, is invalid, or contradicts another value; the message names the key.
    """
    values = flatten(config)
    for key, value in values.items():
        if value == REQUIRED and key not in optional:
            raise UserError(f"this recipe needs {key}: add --config.{key}=...")
    if config.init_head not in ("keep", "auto") and config.init_from is None:
        raise UserError(
            f"init_head={config.init_head} needs init_from, which is not set; set it or leave init_head out"
        )
    if config.init_weights is not None and config.init_from is None:
        raise UserError(
            f"init_weights={config.init_weights} needs init_from, which is not set; set it or leave init_weights out"
        )
    if config.continue_from is not None and config.init_from is not None:
        raise UserError("continue_from and init_from are both set; give one of them")
    for key, default in flatten(default_config(config.task)).items():
        if default is not None and values[key] is None and key not in auto_keys(config):
            raise UserError(f"{key}=None: expected a value, such as the default {default!r}")
    for key, (fits, expected) in checks_of(config.task).items():
        if values[key] is not None and not fits(values[key]):
            raise UserError(f"{key}={values[key]}: expected {expected}")
    check_evaluations(config.evaluations, checks_of(config.task))


def expand_paths(config: ConfigDict) -> None:
    """Replaces a leading `~` by the home directory in the values of keys for paths.

    `compilation_cache` and `data.cache` keep their `~`, because the config must be the same on hosts with different
    home directories.
    """
    evaluations = [(given, "path") for given in config.evaluations.values() if isinstance(given, ConfigDict)]
    for section, key in ((config.data, "path"), (config, "init_from"), (config, "continue_from"), *evaluations):
        if isinstance(section.get(key), str):
            section[key] = os.path.expanduser(section[key])


def duration(config: ConfigDict, key: str, steps_per_epoch: int, default: int | None = None) -> int | None:
    """Returns a duration in steps: the value of `KEY_steps`, or of `KEY_epochs`, rounded to steps.

    Args:
      config: the config.
      key: name of the duration, such as "total" or "schedule.warmup".
      steps_per_epoch: number of steps per epoch.
      default: result if neither key is set.

    Raises:
      UserError: both keys are set, or the duration is not positive (a warm-up may be 0) or too long.
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
    """Returns the keys whose values may be chosen automatically: `AUTO` and keys of the config's task."""
    return AUTO + settings_of(config.task).AUTO


def model_config(config: ConfigDict | FrozenConfigDict) -> FocalNetConfig:
    """Returns the model of a config: the variant `model.name`, with the options that the config sets."""
    options = config.model.to_dict()
    return variant_config(options.pop("name"), remat=config.remat, **options)


def flatten(config: ConfigDict | FrozenConfigDict) -> dict[str, Any]:
    """Returns the values of a config by dotted key, such as `optimizer.name`."""
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
