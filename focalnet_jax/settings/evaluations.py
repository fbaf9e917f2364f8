"""Settings of additional evaluations, each with its own name, data and interval."""

from __future__ import annotations

import re
from typing import Any

from ml_collections import ConfigDict, config_dict

from focalnet_jax.errors import UserError, suggest
from focalnet_jax.settings import Checks

# Prefixes of other metrics. An evaluation may not have one of these names.
_TAKEN = ("data", "eval", "gradients", "maps", "params", "train")


def evaluation(**values: Any) -> ConfigDict:
    """Returns the settings of an additional evaluation, for `config.evaluations`.

    Settings that are not in `values` have their defaults.

    `config.evaluations.real = evaluation(path="/data/imagenet_real")` evaluates on that data set at every evaluation
    of `data.eval_split`. Its metrics are `real/top1` and so on.

    Raises:
      UserError: a setting is unknown.
    """
    settings = ConfigDict()
    settings.source = config_dict.placeholder(str)  # see data.source; None: the value of data.source
    settings.path = config_dict.placeholder(str)  # see data.path; None: the value of data.path
    settings.split = config_dict.placeholder(str)  # name of the split; None: the value of data.eval_split
    settings.examples = config_dict.placeholder(int)  # number of examples, evenly spaced in the split; None: all
    # Interval in epochs or in steps; if neither is set: at every evaluation of data.eval_split
    settings.every_epochs = config_dict.placeholder(float)
    settings.every_steps = config_dict.placeholder(int)
    settings.eval_classes = config_dict.placeholder(object)  # classification: replaces config.eval_classes; None: same
    for key, value in values.items():
        if key not in settings:
            raise UserError(
                f"unknown setting {key!r} of an evaluation; expected {', '.join(settings)}.{suggest(key, settings)}"
            )
        settings[key] = value
    return settings


def check_evaluations(evaluations: ConfigDict, checks: Checks) -> None:
    """Checks names and settings of evaluations, and adds the defaults of missing settings.

    Settings that replace a key of the config are checked like that key, by `checks`, see `settings.checks_of`.

    Raises:
      UserError: a name or a setting is invalid.
    """
    for name, given in evaluations.items():
        key = f"evaluations.{name}"
        if not re.fullmatch(r"[A-Za-z]\w*", name) or name in _TAKEN:
            raise UserError(
                f"{key}: expected a name of letters, digits and _ that starts with a letter and is not one of "
                f"{', '.join(_TAKEN)}"
            )
        if not isinstance(given, ConfigDict):
            raise UserError(f"{key}={given!r}: expected evaluation(...) from focalnet_jax.settings.evaluations")
        try:
            evaluations[name] = evaluation(**given)
        except UserError as error:
            raise UserError(f"{key}: {error}") from error
        except TypeError as error:
            raise UserError(f"{key}: a value has the wrong type ({error})") from error
        if given.get("examples") is not None and given.examples < 1:
            raise UserError(f"{key}.examples={given.examples}: expected a positive number")
        for setting, value in given.items():
            fits, expected = checks.get(setting, (None, ""))
            if fits and value is not None and not fits(value):
                raise UserError(f"{key}.{setting}={value}: expected {expected}")
