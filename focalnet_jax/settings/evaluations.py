"""Settings of additional evaluations: other data, each with its own name and cadence."""

from __future__ import annotations

import re
from typing import Any

from ml_collections import ConfigDict, config_dict

from focalnet_jax.errors import UserError, suggest

# Prefixes of other metrics in metrics.jsonl.
_TAKEN = ("data", "eval", "gradients", "maps", "params", "train")


def evaluation(**values: Any) -> ConfigDict:
    """Returns the settings of an evaluation, a value of `config.evaluations`; settings not given have their defaults.

    `config.evaluations.real = evaluation(path="/data/imagenet_real")` evaluates on that data set with every evaluation
    of `data.eval_split`; its metrics are `real/top1` and so on.

    Raises:
      UserError: a setting is unknown.
    """
    settings = ConfigDict()
    settings.source = config_dict.placeholder(str)  # as data.source; None: data.source
    settings.path = config_dict.placeholder(str)  # as data.path; None: data.path
    settings.split = config_dict.placeholder(str)  # None: data.eval_split
    settings.examples = config_dict.placeholder(int)  # number of examples, evenly spaced in the split; None: all
    settings.every_epochs = config_dict.placeholder(float)  # if neither is set: whenever data.eval_split is
    settings.every_steps = config_dict.placeholder(int)
    settings.eval_classes = config_dict.placeholder(object)  # classification: as config.eval_classes; None: its value
    for key, value in values.items():
        if key not in settings:
            raise UserError(f"unknown setting {key!r} of an evaluation.{suggest(key, settings)}")
        settings[key] = value
    return settings


def check_evaluations(evaluations: ConfigDict) -> None:
    """Checks names and settings of evaluations, and adds the defaults of missing settings.

    Raises:
      UserError: a name or a setting is invalid.
    """
    for name, given in evaluations.items():
        key = f"evaluations.{name}"
        if not re.fullmatch(r"[A-Za-z]\w*", name) or name in _TAKEN:
            raise UserError(f"{key}: expected a name of letters and digits other than {', '.join(_TAKEN)}")
        if not isinstance(given, ConfigDict):
            raise UserError(f"{key}={given!r}: expected evaluation(...) of focalnet_jax.settings.evaluations")
        try:
            evaluations[name] = evaluation(**given)
        except UserError as error:
            raise UserError(f"{key}: {error}") from error
        except TypeError as error:
            raise UserError(f"{key}: a value has another type than expected: {error}") from error
        if given.get("examples") is not None and given.examples < 1:
            raise UserError(f"{key}.examples={given.examples}: expected a positive number")
