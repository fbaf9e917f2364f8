"""Loads the config of a recipe, and applies `--config.KEY=VALUE` arguments to it."""

from __future__ import annotations

import ast
import importlib.util
import sys
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict, FrozenConfigDict

import focalnet_jax
from focalnet_jax.config import BY_MACHINE, REQUIRED, auto_keys, check_values, default_config, expand_paths, flatten
from focalnet_jax.errors import UserError, did_you_mean, nearest, suggest
from focalnet_jax.settings import checks_of
from focalnet_jax.settings.evaluations import evaluation


def load_config(path: str, overrides: Sequence[str] = (), *, optional: Sequence[str] = ()) -> FrozenConfigDict:
    """Returns the frozen config of a recipe with overrides applied.

    Args:
      path: `FILE.py` or `FILE.py:VARIANT`.
      overrides: `--config.KEY=VALUE` arguments.
      optional: keys that need no value even if the recipe requires one.

    Raises:
      UserError: there is no such file or variant, a key is unknown (the message suggests similar keys), or a value has
        the wrong type.
    """
    file, variant = (path, "") if path.endswith(".py") else path.rsplit(":", 1) if ":" in path else (path, "")
    config = _read_config(_found(Path(file)), variant)
    named = [_override(config, key, text) for key, text in _split(overrides)]
    _prefer_named_durations(config, named)
    expand_paths(config)
    if config.continue_from is not None and config.init_from == REQUIRED:  # weights come from that run
        config.init_from, config.init_head = None, "keep"
    check_values(config, optional)
    return FrozenConfigDict(config)


def named_keys(overrides: Sequence[str]) -> frozenset[str]:
    """Returns the keys set by `--config.KEY=VALUE` arguments."""
    return frozenset(key for key, _ in _split(overrides))


def _found(file: Path) -> Path:
    """Returns `file`, or the recipe installed with the package if `file` is configs/NAME.py and does not exist."""
    installed = Path(focalnet_jax.__file__).parent / file
    return installed if file.parent == Path("configs") and not file.is_file() and installed.is_file() else file


def _read_config(file: Path, variant: str) -> ConfigDict:
    if not file.is_file():
        raise UserError(f"--config: there is no file {file}; expected FILE.py or FILE.py:VARIANT")
    spec = importlib.util.spec_from_file_location(f"config_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise UserError(f"--config: {file} is not a Python file; expected FILE.py or FILE.py:VARIANT")
    module = importlib.util.module_from_spec(spec)
    folder, before = str(file.resolve().parent), list(sys.path)
    if folder not in sys.path:  # a config may import other files in its folder
        sys.path.insert(0, folder)
    try:
        spec.loader.exec_module(module)
        get_config = getattr(module, "get_config", None)
        config = get_config(variant) if get_config else None
    except UserError:
        raise
    except Exception as error:  # the user's code may raise any type
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == file]
        line = error.lineno if isinstance(error, SyntaxError) else frames[-1].lineno if frames else "?"
        raise UserError(f"--config: {file}:{line} fails: {type(error).__name__}: {error}") from error
    finally:
        sys.path[:] = before
    if not isinstance(config, ConfigDict):
        raise UserError(f"--config: {file} has no function get_config(variant) that returns a config")
    missing = flatten(default_config(config.get("task", "classification"))).keys() - flatten(config).keys()
    if missing:
        raise UserError(f"--config: {file} lacks the keys {', '.join(sorted(missing))}; start from default_config()")
    return config


def _split(overrides: Sequence[str]) -> Iterable[tuple[str, str]]:
    """Yields (key, value) of `--config.KEY=VALUE` and `--config.KEY VALUE` arguments."""
    rest = list(overrides)
    while rest:
        argument = rest.pop(0)
        key, equals, value = argument.partition("=")
        if not key.startswith("--config."):
            near = suggest(key, ["--config", "--workdir", "--checkpoint", "--help"])
            raise UserError(f"unknown argument {argument!r}; expected --config.KEY=VALUE.{near}")
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise UserError(f"{key} has no value; expected {key}=VALUE")
            value = rest.pop(0)
        yield key.removeprefix("--config."), value


def _override(config: ConfigDict, key: str, text: str) -> str:
    """Sets a key of the config to the value in `text`, converted to the type of the key. Returns the key."""
    section, *rest = key.split(".")
    if section == "evaluations" and len(rest) in (1, 2) and rest[0] not in config.evaluations:
        config.evaluations[rest[0]] = evaluation()
    known = flatten(config)
    if key not in known:
        below = [name for name in known if name.startswith(f"{key}.")]
        if below:
            raise UserError(f"{key} is a section of the config; set one of {', '.join(below)}")
        leaves = {name.rsplit(".", 1)[-1]: name for name in known}
        near = nearest(key, known) or [leaves[leaf] for leaf in nearest(key.rsplit(".", 1)[-1], leaves)]
        raise UserError(f"unknown config key {key!r}.{did_you_mean(near) or ' Known keys: ' + ', '.join(known)}")
    *parents, leaf = key.split(".")
    if key == "task" and text != config.task:
        raise UserError(f"--config.task={text}: the recipe is for {config.task}; choose a recipe of that task instead")
    node = config
    for parent in parents:
        node = node[parent]
    default = flatten(default_config(config.task)).get(key)
    if node[leaf] is None and default is not None:  # the recipe set None, which has no type to check a value against
        node[leaf] = default
    kind = node.get_type(leaf)
    try:
        value = _literal(text)
        if text == "auto" and key in (*auto_keys(config), *BY_MACHINE):
            value = "auto" if kind is str else None
            node[leaf] = value
            return key
        needed = default is not None  # otherwise `none` means not set
        if kind is str and (value is not None or needed):
            value = text
        if (isinstance(value, bool) and kind in (int, float)) or (value is None and needed) or not _is_plain(value):
            raise TypeError
        node[leaf] = value
    except (TypeError, ValueError, OverflowError) as error:
        names = {int: "an integer", float: "a number", bool: "true or false", tuple: "a tuple", str: "a string"}
        expected = names.get(kind, "a value")
        if node[leaf] not in (None, (), "auto"):
            expected += f" such as {node[leaf]}"
        elif key in (checks := checks_of(config.task)):
            expected = checks[key][1]
        if key in auto_keys(config) and "auto" not in expected:
            expected += " or auto"
        raise UserError(f"--config.{key}={text}: expected {expected}") from error
    return key


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval({"true": "True", "false": "False", "none": "None"}.get(text, text))
    except (SyntaxError, ValueError):
        return text


def _is_plain(value: Any) -> bool:
    """Returns whether a value is None, a bool, a number, a string, or a list or tuple of these."""
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def _prefer_named_durations(config: ConfigDict, named: Sequence[str]) -> None:
    """Unsets a duration in epochs if the command line sets it in steps, and vice versa."""
    for key in named:
        for unit, other in (("_steps", "_epochs"), ("_epochs", "_steps")):
            twin = key.removesuffix(unit) + other
            if key.endswith(unit) and twin not in named and twin in flatten(config):
                _override(config, twin, "none")
