"""The configuration of a run: every key with its default, loading with overrides, durations, comparison.

A config file holds `get_config(variant: str = "")`, which starts from `default_config()` and sets values. On the
command line any key is `--config.key=value`.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict, FrozenConfigDict, config_dict

from focalnet_jax.errors import UserError, suggest
from focalnet_jax.model.variants import VARIANTS, FocalNetConfig, variant_config


def default_config() -> ConfigDict:
    """Every key a run understands. `None` means: not set, the meaning stands beside the key."""
    config = ConfigDict()

    config.model = ConfigDict()
    config.model.name = "focalnet_tiny_srf"
    config.model.num_classes = 1000
    # Any option of the variant (model/variants.py) can be replaced; None keeps the variant's value.
    for name in FocalNetConfig.__dataclass_fields__:
        if name not in ("num_classes", "remat"):
            config.model[name] = config_dict.placeholder(object)
    config.remat = "none"  # what a block keeps for the backward pass: none (everything), dots, full (its input)
    config.precision = "float32"  # what is computed in: float32 or bfloat16; parameters are float32

    config.batch_size = 1024  # global: all devices of all hosts together
    config.eval_batch_size = config_dict.placeholder(int)  # None: batch_size
    # Durations: `*_epochs` or `*_steps`, one of the two; what the command line names replaces the other.
    config.total_epochs = config_dict.placeholder(float)
    config.total_steps = config_dict.placeholder(int)
    config.seed = 0
    config.init_from = config_dict.placeholder(str)  # start from these weights: a workdir or an Orbax step
    config.init_head = "keep"  # the classifier of init_from: keep, or drop for a fresh one

    config.optimizer = ConfigDict()
    config.optimizer.b1 = 0.9
    config.optimizer.b2 = 0.999
    config.optimizer.eps = 1e-8
    config.optimizer.weight_decay = 0.05
    config.optimizer.clip_norm = 5.0  # global gradient norm; 0: no clipping

    config.schedule = ConfigDict()
    config.schedule.learning_rate = 1e-3  # the peak, at this batch size
    config.schedule.min_learning_rate = 1e-5
    config.schedule.warmup_learning_rate = 1e-6
    config.schedule.warmup_epochs = config_dict.placeholder(float)
    config.schedule.warmup_steps = config_dict.placeholder(int)

    config.data = ConfigDict()
    config.data.source = "digits"  # digits or folder
    config.data.path = config_dict.placeholder(str)  # folder: the directory that holds the splits
    config.data.train_split = "train"
    config.data.eval_split = "val"
    config.data.image_size = 224
    config.data.eval_resize = config_dict.placeholder(int)  # shorter side before the crop; None: 256/224 * image_size
    config.data.threads = 16  # host threads that decode and augment

    config.augment = ConfigDict()
    config.augment.crop_scale = (0.08, 1.0)  # random-resized-crop: share of the area
    config.augment.crop_ratio = (3 / 4, 4 / 3)  # and its aspect ratio, log-uniform
    config.augment.flip = 0.5  # probability of a horizontal flip
    config.augment.label_smoothing = 0.1

    config.mesh = ConfigDict()
    config.mesh.data = -1  # devices along each axis; -1: the rest
    config.mesh.fsdp = 1
    config.mesh.tensor = 1

    config.log_every_steps = 50
    config.eval_every_epochs = config_dict.placeholder(float)  # neither: once, at the end
    config.eval_every_steps = config_dict.placeholder(int)
    config.checkpoint_every_epochs = config_dict.placeholder(float)  # neither: with every evaluation
    config.checkpoint_every_steps = config_dict.placeholder(int)
    config.keep_latest = 3  # checkpoints kept: the newest ones
    config.keep_best = 1  # and the ones with the best eval/top1
    return config


REQUIRED = "(required)"  # a config file's value for a path that only the user can name

# Keys that may differ when a run is resumed: they change what is seen or where it runs, not what is computed.
RESUMABLE = (
    "log_every_steps",
    "eval_every_epochs",
    "eval_every_steps",
    "checkpoint_every_epochs",
    "checkpoint_every_steps",
    "keep_latest",
    "keep_best",
    "eval_batch_size",
    "data.path",
    "data.threads",
    "mesh.data",
    "mesh.fsdp",
    "mesh.tensor",
)


def load_config(path: str, overrides: Sequence[str] = ()) -> FrozenConfigDict:
    """The config of `FILE.py[:VARIANT]` with `--config.KEY=VALUE` overrides applied, frozen.

    Raises:
      UserError: no such file or variant, unknown key (with the nearest ones), value of a wrong type.
    """
    file, variant = (path, "") if path.endswith(".py") else path.rsplit(":", 1) if ":" in path else (path, "")
    config = _read_config(Path(file), variant)
    config.lock()
    named = [_override(config, key, text) for key, text in _split(overrides)]
    _prefer_named_durations(config, named)
    for key in ("data.path", "init_from"):
        if flatten(config)[key] == REQUIRED:
            raise UserError(f"{file} needs {key}: add --config.{key}=...")
    return FrozenConfigDict(config)


def _read_config(file: Path, variant: str) -> ConfigDict:
    if not file.is_file():
        raise UserError(f"--config: there is no file {file}; expected FILE.py or FILE.py:VARIANT")
    folder = str(file.resolve().parent)
    if folder not in sys.path:  # a config may import its neighbours
        sys.path.insert(0, folder)
    spec = importlib.util.spec_from_file_location(f"config_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise UserError(f"--config: {file} is not a Python file; expected FILE.py or FILE.py:VARIANT")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise UserError(f"--config: {file} has no function get_config(variant)")
    return module.get_config(variant)


def parse_variant(text: str, options: Sequence[str] = (), *, model: str | None = None) -> tuple[str | None, set[str]]:
    """What a config file is told behind its colon: a model and options, separated by commas.

    Args:
      text: such as "base_lrf", "base_lrf,384" or "smoke".
      options: the words the config knows beside model names.
      model: the model if none is named; None if the config has no choice of models.

    Returns:
      The model's full name, and the options given.
    """
    models = {name.removeprefix("focalnet_"): name for name in VARIANTS} if model else {}
    chosen: set[str] = set()
    for word in filter(None, text.split(",")):
        if word in options:
            chosen.add(word)
        elif word.removeprefix("focalnet_") in models:
            model = models[word.removeprefix("focalnet_")]
        else:
            known = [*models, *options]
            raise UserError(f"unknown config variant {word!r}.{suggest(word, known)} Known: {', '.join(known)}")
    return model, chosen


def shrink_to_smoke(config: ConfigDict) -> None:
    """Makes any recipe a run of a few steps on digits: the same code and flags, small in every dimension."""
    config.model.embed_dim = 16
    config.model.depths = (2,) * len(variant_config(config.model.name).depths)
    config.batch_size = 16
    config.total_epochs = config.schedule.warmup_epochs = None
    config.eval_every_epochs = config.checkpoint_every_epochs = None
    config.total_steps, config.schedule.warmup_steps = 6, 2
    config.log_every_steps = 1
    config.data.source, config.data.path = "digits", None
    config.data.image_size = 64
    config.data.threads = 2
    config.init_from = None


def _split(overrides: Sequence[str]) -> Iterable[tuple[str, str]]:
    """`--config.KEY=VALUE` and `--config.KEY VALUE` as pairs."""
    rest = list(overrides)
    while rest:
        argument = rest.pop(0)
        key, equals, value = argument.partition("=")
        if not key.startswith("--config."):
            near = suggest(key, ["--config", "--workdir", "--checkpoint", "--help"], 1)
            raise UserError(f"unknown argument {argument!r}; expected --config.KEY=VALUE.{near}")
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise UserError(f"{key} has no value; expected {key}=VALUE")
            value = rest.pop(0)
        yield key.removeprefix("--config."), value


def _override(config: ConfigDict, key: str, text: str) -> str:
    """Sets `config.key` to the value `text` spells, in the type the key has."""
    known = flatten(config)
    if key not in known:
        nearest = suggest(key, known) or suggest(key.rsplit(".", 1)[-1], [k.rsplit(".", 1)[-1] for k in known])
        raise UserError(f"unknown config key {key!r}.{nearest or ' Known keys: ' + ', '.join(known)}")
    *parents, leaf = key.split(".")
    node = config
    for parent in parents:
        node = node[parent]
    kind = node.get_type(leaf)
    try:
        value = _literal(text)
        if kind is str and value is not None:
            value = text
        if isinstance(value, bool) and kind in (int, float):
            raise TypeError
        node[leaf] = value
    except (TypeError, ValueError) as error:
        expected = {int: "an integer", float: "a number", bool: "true or false", tuple: "a tuple"}[kind]
        example = f" such as {node[leaf]}" if node[leaf] is not None else ""
        raise UserError(f"--config.{key}={text}: expected {expected}{example}") from error
    return key


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval({"true": "True", "false": "False", "none": "None"}.get(text, text))
    except (SyntaxError, ValueError):
        return text


def _prefer_named_durations(config: ConfigDict, named: Sequence[str]) -> None:
    """A duration named on the command line in one unit clears the config file's value in the other."""
    for key in named:
        for unit, other in (("_steps", "_epochs"), ("_epochs", "_steps")):
            twin = key.removesuffix(unit) + other
            if key.endswith(unit) and twin not in named and twin in flatten(config):
                _override(config, twin, "none")


def duration(config: ConfigDict, key: str, steps_per_epoch: int, default: int | None = None) -> int | None:
    """The number of steps of `key`, given as `key_steps` or `key_epochs` (fractions of an epoch round).

    Raises:
      UserError: both are given, or neither and there is no default, or it is not positive.
    """
    values = flatten(config)
    steps, epochs = values[f"{key}_steps"], values[f"{key}_epochs"]
    if steps is not None and epochs is not None:
        raise UserError(f"{key}_steps={steps} and {key}_epochs={epochs} are both set; give one of them")
    if steps is None and epochs is None:
        return default
    result = steps if steps is not None else round(epochs * steps_per_epoch)
    if result < 0 or (result == 0 and not key.endswith("warmup")):
        raise UserError(f"{key} is {steps if steps is not None else epochs}; expected at least one step")
    return result


def flatten(config: ConfigDict | FrozenConfigDict) -> dict[str, Any]:
    """Values by dotted key."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            flat |= {f"{key}.{inner}": leaf for inner, leaf in flatten(value).items()}
        else:
            flat[key] = value
    return flat


def to_json(config: ConfigDict | FrozenConfigDict) -> str:
    """The resolved config as JSON."""
    return json.dumps(config.to_dict(), indent=2) + "\n"


def differences(config: ConfigDict | FrozenConfigDict, stored: str) -> list[str]:
    """What of `config` differs from a `stored` JSON in a way that forbids resuming; one text a key."""
    ours, theirs = (flatten(ConfigDict(json.loads(text))) for text in (to_json(config), stored))
    return [
        f"{key} is {theirs.get(key, 'not set')} there and {ours.get(key, 'not set')} here"
        for key in sorted(ours.keys() | theirs.keys())
        if key not in RESUMABLE and ours.get(key) != theirs.get(key)
    ]
