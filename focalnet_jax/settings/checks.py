"""Checks of the values of keys that all tasks share. The checks need no data and no devices."""

from __future__ import annotations

import math
import re
from typing import Any

from focalnet_jax.settings.tasks import TASKS

# Values of data.eval_resize_mode and data.interpolation, see `data.preprocessing`.
RESIZE_MODES = ("shorter", "stretch", "longest", "none")
INTERPOLATIONS = ("bicubic", "bilinear", "lanczos", "box", "hamming", "nearest")


def _are_scales(rules: tuple[Any, ...]) -> bool:
    return all(
        isinstance(rule, tuple | list)
        and len(rule) == 2
        and isinstance(rule[0], str)
        and isinstance(rule[1], int | float)
        and not isinstance(rule[1], bool)
        and 0 <= rule[1] < math.inf
        for rule in rules
    )


def _are_steps(value: tuple[Any, ...]) -> bool:
    return len(value) == 2 and all(isinstance(step, int) for step in value) and 1 <= value[0] <= value[1]


def _are_pixels(value: Any) -> bool:
    sides = value if isinstance(value, tuple | list) else (value, value)
    return len(sides) == 2 and all(type(side) is int and 0 < side <= 2**14 for side in sides)


def _are_channels(value: tuple[Any, ...], above: float) -> bool:
    numbers = all(isinstance(each, int | float) and not isinstance(each, bool) for each in value)
    return len(value) == 3 and numbers and all(above < each < math.inf for each in value)


def is_local(folder: str) -> bool:
    """Returns False if a folder's name is empty, or an address such as `gs://...`, even a mistyped one; else True."""
    return bool(folder) and not re.match(r"gs:|gs//|[a-z][a-z0-9+.-]+:/", folder, re.IGNORECASE)


SHARE = (lambda v: 0 <= v <= 1, "a number in [0, 1]")
FRACTION = (lambda v: 0 <= v < 1, "a number in [0, 1)")
POSITIVE = (lambda v: 0 < v < math.inf, "a positive number")
PIXELS = (_are_pixels, "1 to 16384 pixels, or (height, width)")
NOT_NEGATIVE = (lambda v: 0 <= v < math.inf, "0 or a positive number")
SCALES = (_are_scales, "pairs of a pattern and a factor of at least 0, such as (('^patch_embed/', 0), ('^head/', 10))")
# For each key, a function that returns whether a value is valid, and the valid values in words.
CHECKS = {
    "task": (lambda v: v in TASKS, f"one of {', '.join(TASKS)}"),
    "batch_size": POSITIVE,
    "eval_batch_size": POSITIVE,
    "accumulate_steps": POSITIVE,
    "seed": (lambda v: 0 <= v < 2**32, "an integer in [0, 2**32)"),
    "init_head": (lambda v: v in ("keep", "drop", "remap", "auto"), "keep, drop, remap or auto"),
    "ema_decay": FRACTION,
    "optimizer.name": (lambda v: v in ("adamw", "lamb", "lion", "sgd"), "adamw, lamb, lion or sgd"),
    "optimizer.layer_decay": (lambda v: 0 < v <= 1, "a number in (0, 1]"),
    "optimizer.learning_rate_scales": SCALES,
    "optimizer.weight_decay_scales": SCALES,
    "optimizer.b1": FRACTION,
    "optimizer.b2": FRACTION,
    "optimizer.eps": POSITIVE,
    "optimizer.weight_decay": NOT_NEGATIVE,
    "optimizer.clip_norm": NOT_NEGATIVE,
    "schedule.name": (lambda v: v in ("cosine", "poly", "step"), "cosine, poly or step"),
    "schedule.power": POSITIVE,
    "schedule.drops": (lambda v: all(isinstance(n, int | float) and 0 < n < 1 for n in v), "fractions such as (0.75,)"),
    "schedule.drop_factor": (lambda v: 0 < v <= 1, "a number in (0, 1]"),
    "schedule.learning_rate": NOT_NEGATIVE,
    "schedule.min_learning_rate": NOT_NEGATIVE,
    "schedule.warmup_learning_rate": NOT_NEGATIVE,
    "data.image_size": PIXELS,
    "data.interpolation": (lambda v: v in INTERPOLATIONS, ", ".join(INTERPOLATIONS)),
    "data.mean": (lambda v: _are_channels(v, -math.inf), "three numbers such as (0.5, 0.5, 0.5)"),
    "data.std": (lambda v: _are_channels(v, 0), "three positive numbers such as (0.5, 0.5, 0.5)"),
    "data.cache": (is_local, "a folder on a local disk"),
    "data.threads": NOT_NEGATIVE,
    "data.workers": NOT_NEGATIVE,
    "data.stall_seconds": POSITIVE,
    "data.max_unreadable": SHARE,
    "grace_seconds": POSITIVE,
    "health.max_skipped": POSITIVE,
    "health.watchdog_seconds": POSITIVE,
    "health.spike_factor": (lambda v: v == 0 or 1 < v < math.inf, "0, or a number above 1"),
    "log_every_steps": POSITIVE,
    "log_maps": NOT_NEGATIVE,
    "log_predictions": NOT_NEGATIVE,
    "writers": (
        lambda v: all(isinstance(name, str) for name in v) and len(set(v)) == len(v),
        "names such as ('tensorboard',), each once",
    ),
    "profile_steps": (lambda v: not v or _are_steps(v), "(first, last), counted from 1"),
    "keep_latest": (lambda v: v >= 1, "at least 1, to be able to resume"),
    "keep_best": NOT_NEGATIVE,
}
