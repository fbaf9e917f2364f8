"""Reuses values of the config stored with a run, and finds the keys in which another config differs from it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict, FrozenConfigDict

from focalnet_jax.config import auto_keys, default_config, flatten, is_auto, replaced, to_json
from focalnet_jax.errors import UserError
from focalnet_jax.settings import settings_of

# Keys that may differ when a run is resumed, because they do not change the computed updates.
RESUMABLE = (
    "log_every_steps",
    "log_statistics",
    "log_maps",
    "log_predictions",
    "writers",
    "profile_steps",
    "compilation_cache",
    "eval_every_epochs",
    "eval_every_steps",
    "checkpoint_every_epochs",
    "checkpoint_every_steps",
    "keep_latest",
    "keep_best",
    "grace_seconds",
    "health.max_skipped",
    "health.watchdog_seconds",
    "eval_batch_size",
    "data.path",
    "data.cache",
    "data.threads",
    "data.workers",
    "data.stall_seconds",
    "data.max_unreadable",
    "mesh.data",
    "mesh.fsdp",
    "mesh.tensor",
)


def with_defaults(stored: dict[str, Any], task: str) -> dict[str, Any]:
    """Returns the config of a run, read from JSON, with default values for missing keys of `task`.

    A key may be missing because the config was stored before the key existed.

    Raises:
      UserError: the stored config has another value where a section is expected.
    """
    return _filled(json.loads(to_json(default_config(task))), stored)


def _filled(defaults: dict[str, Any], stored: dict[str, Any]) -> dict[str, Any]:
    for key, value in stored.items():
        if isinstance(defaults.get(key), dict) and not isinstance(value, dict):
            raise UserError(
                f"the stored config of the run is damaged: {key} is {value!r}; expected an object with keys such as "
                f"{next(iter(defaults[key]), 'NAME')}: restore config.json, or start a run in another workdir"
            )
    nested = {
        key: _filled(defaults[key], value)
        for key, value in stored.items()
        if isinstance(value, dict) and isinstance(defaults.get(key), dict)
    }
    return defaults | stored | nested


def with_stored(config: ConfigDict | FrozenConfigDict, stored: dict[str, Any]) -> FrozenConfigDict:
    """Returns the config with the stored values of the keys that are left to be chosen.

    `stored` is the config of a run, read from JSON.
    """
    ours, theirs = flatten(config), flatten(ConfigDict(stored))
    keys = [key for key in auto_keys(config) if is_auto(config, key)]
    if "model.name" in keys:  # together with the options in which the stored model differs from its variant
        keys += [key for key in ours if key.startswith("model.") and ours[key] is None]
    if "schedule.learning_rate" in keys and ours["schedule.warmup_steps"] is ours["schedule.warmup_epochs"] is None:
        keys += ["schedule.warmup_steps", "schedule.warmup_epochs"]
    if ours["total_steps"] is ours["total_epochs"] is None:
        keys += ["total_steps", "total_epochs"]
    if config.continue_from and _is_step_of(config.continue_from, theirs.get("continue_from")):
        keys.append("continue_from")
    return replaced(config, {key: theirs[key] for key in keys if key in theirs})


def _is_step_of(given: str, step: str | None) -> bool:
    """Returns whether `given` is the checkpoint `step` (WORKDIR/checkpoints/STEP), its folder or its workdir."""
    return step is not None and Path(os.path.abspath(given)) in (Path(step), *list(Path(step).parents)[:2])


def differences(config: ConfigDict | FrozenConfigDict, stored: dict[str, Any]) -> list[str]:
    """Returns one line for each key that prevents a run from resuming, because it differs from the stored config.

    `stored` is the config of the run, read from JSON. A missing key has the default value, see `with_defaults`.
    Keys of `config` that are chosen automatically are set to their stored values first.
    """
    stored = with_defaults(stored, config.task)
    ours = flatten(ConfigDict(json.loads(to_json(with_stored(config, stored)))))
    theirs = flatten(ConfigDict(stored))
    resumable = RESUMABLE + settings_of(config.task).RESUMABLE
    return [
        f"{key} was {theirs.get(key, 'not set')} and is now {ours.get(key, 'not set')}"
        for key in sorted(ours.keys() | theirs.keys())
        if key not in resumable and not key.startswith("evaluations.") and ours.get(key) != theirs.get(key)
    ]
