"""Fuzzes config files and `--config.KEY=VALUE`, through `load_config` and the start of a run."""

from __future__ import annotations

import ast
import math
import os
from pathlib import Path
from typing import Any

from ml_collections import FrozenConfigDict

from focalnet_jax.config import BY_MACHINE, auto_keys, default_config, flatten, is_auto
from focalnet_jax.errors import UserError
from focalnet_jax.programs.config_files import load_config
from focalnet_jax.tasks.classification.mixing import make_mixing
from focalnet_jax.training.plan import make_plan
from fuzz.mutations import Rng, mutate_bytes, pick
from fuzz.runner import Family, WrongAnswerError

_TEXTS = (
    *("", " ", "0", "1", "-1", "2", "3.5", "-0.0", "1e3", "1_000", "0x10", "1e400", "-1e400", "nan", "inf", "1.", "١"),
    *("true", "True", "false", "none", "None", "null", "yes", "1j", "1+1", "b'a'", "'a'", '"', "'", "\\", "\0", "é\n"),
    *("()", "(1,)", "(1,2)", "[1, 2]", "(0.5, 0.9)", "((1,2),(3,4))", "{}", "{1: 2}", "{1}", "({1: 2},)"),
    *("(", "[" * 300, "(" * 5000, "9" * 400),
    *("9" * 20, "9" * 5000, "a" * 5000, "a b", "a=b", "--config.seed=1", "__import__('os').abort()", "lambda: 0"),
    *("digits", "folder", "tfds", "auto", "bfloat16", "adamw", "keep", "/nowhere", "gs://a/b", "~", "~/x", "\ud800"),
    *("rand-m9-mstd0.5-inc1", "3a", "rand-m999-n-1", "rand-", "(('^head/', 2),)", "('wandb',)", "(1,'a')"),
)  # fmt: skip
_SOURCE = """from focalnet_jax.config import default_config
def get_config(variant):
    config = default_config()
    {line}
    return config
"""
_FILES = (
    "config.{key} = {value!r}",
    "config.{key} = {value!r}; return None",
    "config.{key}x = {value!r}",
    "del config.{key}",
    "raise KeyError({value!r})",
    "1 / 0",
    "return {{}}",
    "def",
)


def prepare(_: Path) -> dict[str, Any]:
    """Returns the values of a complete config."""
    return flatten(default_config())


def case(defaults: dict[str, Any], rng: Rng, folder: Path) -> None:
    """Loads a config with one to four changes. Exactly the changed values must differ."""
    keys = [pick(rng, defaults) for _ in range(int(rng.integers(1, 5)))]
    given = {key: _text(defaults[key], rng) for key in keys}
    path = folder / "recipe.py"
    in_file, line = {}, ""
    if rng.random() < 0.3:
        key, value = pick(rng, defaults), pick(rng, (0, 1, 0.5, "a", None, (1, 2), True, math.nan))
        template = pick(rng, _FILES) if rng.random() < 0.5 else _FILES[0]
        line = template.format(key=key, value=value)
        in_file = {key: value} if template == _FILES[0] else {}
    source = _SOURCE.format(line=line)
    path.write_bytes(mutate_bytes(source.encode(), rng, 1) if rng.random() < 0.03 else source.encode())
    overrides = []
    for key, text in given.items():
        name = f"--config.{key if rng.random() < 0.95 else mutate_bytes(key.encode(), rng, 1).decode(errors='replace')}"
        overrides += [f"{name}={text}"] if rng.random() < 0.9 else [name, text]
    config = load_config(f"{path}{pick(rng, ('', '', ':', ':variant'))}", overrides)
    _check(defaults, given, in_file, config)
    _start(config)


def _text(value: Any, rng: Rng) -> str:
    """Returns a string that a user may type for a key; half of the time it is similar to the value of the key."""
    if rng.random() < 0.5:
        return pick(rng, _TEXTS)
    if isinstance(value, bool):
        return pick(rng, ("true", "false", "True", "1"))
    if isinstance(value, int | float):
        return repr(pick(rng, (value, value + 1, value * 2, value / 2, -value, float(value), 1, 0.5, 10)))
    return str(value) if rng.random() < 0.3 else pick(rng, _TEXTS)


def _check(defaults: dict[str, Any], given: dict[str, str], in_file: dict[str, Any], config: FrozenConfigDict) -> None:
    for key, value in flatten(config).items():
        if key in given:
            left_open = value is None and given[key] in ("auto", "'auto'") and key in (*auto_keys(config), *BY_MACHINE)
            if not left_open and not _means(given[key], value):
                raise WrongAnswerError(f"{key}={given[key]!r} became {value!r}")
        elif key in in_file:
            if not _same(in_file[key], value) and not _twin_given(key, given):
                raise WrongAnswerError(f"{key} is {value!r}, the file sets {in_file[key]!r}")
        elif not _same(defaults[key], value):
            raise WrongAnswerError(f"{key} became {value!r} but was not set")


def _twin_given(key: str, given: dict[str, str]) -> bool:
    """Returns whether the duration was given in the other unit (steps or epochs), which unsets this key."""
    return key.replace("_epochs", "_steps") in given or key.replace("_steps", "_epochs") in given


def _same(expected: Any, value: Any) -> bool:
    if isinstance(expected, float) and math.isnan(expected):
        return isinstance(value, float) and math.isnan(value)
    if isinstance(value, float) and isinstance(expected, int):
        expected = float(expected)
    return value == expected and isinstance(value, bool) == isinstance(expected, bool)


def _means(text: str, value: Any) -> bool:
    try:
        literal = ast.literal_eval({"true": "True", "false": "False", "none": "None"}.get(text, text))
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        literal = text
    if isinstance(literal, list | tuple) and isinstance(value, list | tuple):
        return list(literal) == list(value)
    return value in (text, os.path.expanduser(text)) or _same(literal, value)


def _start(config: FrozenConfigDict) -> None:
    """Makes the plan and the mixing of a config in which no value is left open. Both may raise `UserError`."""
    if any(is_auto(config, key) for key in auto_keys(config)):
        return
    for decide in (lambda: make_plan(config, 1000), lambda: make_mixing(config)):
        try:
            decide()
        except UserError:
            continue


FAMILY = Family("configs", 4000, prepare, case, seconds=30)
