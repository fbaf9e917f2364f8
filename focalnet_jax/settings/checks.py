"""The values that each key of a config may have, whatever the data and the devices are."""

from __future__ import annotations

import math
from typing import Any

# Values of data.eval_resize_mode and data.interpolation, as `data.preprocessing` follows them.
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


def _are_weights(value: Any) -> bool:
    return (
        isinstance(value, tuple | list)
        and all(isinstance(v, int | float) and not isinstance(v, bool) and 0 <= v < math.inf for v in value)
        and sum(value) > 0
    )


def _are_steps(value: tuple[Any, ...]) -> bool:
    return len(value) == 2 and all(isinstance(step, int) for step in value) and 1 <= value[0] <= value[1]


def _are_competing(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return bool(value) and all(isinstance(name, str | int) and not isinstance(name, bool) for name in value)
    return bool(value) if isinstance(value, str) else type(value) is int and value > 0


def _are_pixels(value: Any) -> bool:
    sides = value if isinstance(value, tuple | list) else (value, value)
    return len(sides) == 2 and all(type(side) is int and 0 < side <= 2**14 for side in sides)


def _are_channels(value: tuple[Any, ...], above: float) -> bool:
    numbers = all(isinstance(each, int | float) and not isinstance(each, bool) for each in value)
    return len(value) == 3 and numbers and all(above < each < math.inf for each in value)


def _is_range(value: tuple[Any, ...], lowest: float, highest: float) -> bool:
    return (
        len(value) == 2
        and all(isinstance(end, int | float) for end in value)
        and lowest < value[0] <= value[1] <= highest
    )


_SHARE = (lambda v: 0 <= v <= 1, "a number in [0, 1]")
_FRACTION = (lambda v: 0 <= v < 1, "a number in [0, 1)")
_POSITIVE = (lambda v: 0 < v < math.inf, "a positive number")
_PIXELS = (_are_pixels, "1 to 16384 pixels, or (height, width)")
_NOT_NEGATIVE = (lambda v: 0 <= v < math.inf, "0 or a positive number")
_SCALES = (_are_scales, "pairs of a pattern and a factor from 0 on, such as (('^patch_embed/', 0), ('^head/', 10))")
# For each key, whether a value fits, and what is expected in words.
CHECKS = {
    "model.num_classes": _POSITIVE,
    "batch_size": _POSITIVE,
    "eval_batch_size": _POSITIVE,
    "eval_classes": (_are_competing, "a positive number, present, a file of classes or a tuple of them"),
    "accumulate_steps": _POSITIVE,
    "seed": (lambda v: 0 <= v < 2**32, "an integer in [0, 2**32)"),
    "init_head": (lambda v: v in ("keep", "drop", "remap", "auto"), "keep, drop, remap or auto"),
    "ema_decay": _FRACTION,
    "optimizer.name": (lambda v: v in ("adamw", "lamb", "lion", "sgd"), "adamw, lamb, lion or sgd"),
    "optimizer.layer_decay": (lambda v: 0 < v <= 1, "a number in (0, 1]"),
    "optimizer.learning_rate_scales": _SCALES,
    "optimizer.weight_decay_scales": _SCALES,
    "optimizer.b1": _FRACTION,
    "optimizer.b2": _FRACTION,
    "optimizer.eps": _POSITIVE,
    "optimizer.weight_decay": _NOT_NEGATIVE,
    "optimizer.clip_norm": _NOT_NEGATIVE,
    "schedule.learning_rate": _NOT_NEGATIVE,
    "schedule.min_learning_rate": _NOT_NEGATIVE,
    "schedule.warmup_learning_rate": _NOT_NEGATIVE,
    "data.image_size": _PIXELS,
    "data.eval_resize": _PIXELS,
    "data.held_out": _FRACTION,
    "data.class_balance": _SHARE,
    "class_weights": (
        lambda v: v == "balanced" or _are_weights(v),
        "balanced, or a number from 0 on for each class, such as (1, 2.5)",
    ),
    "data.eval_resize_mode": (lambda v: v in RESIZE_MODES, ", ".join(RESIZE_MODES)),
    "data.interpolation": (lambda v: v in INTERPOLATIONS, ", ".join(INTERPOLATIONS)),
    "data.mean": (lambda v: _are_channels(v, -math.inf), "three numbers such as (0.5, 0.5, 0.5)"),
    "data.std": (lambda v: _are_channels(v, 0), "three positive numbers such as (0.5, 0.5, 0.5)"),
    "data.threads": _NOT_NEGATIVE,
    "data.workers": _NOT_NEGATIVE,
    "data.stall_seconds": _POSITIVE,
    "data.max_unreadable": _SHARE,
    "augment.crop_scale": (lambda v: _is_range(v, 0, 1), "(smallest, largest) share of the area, within (0, 1]"),
    "augment.crop_ratio": (lambda v: _is_range(v, 0, math.inf), "(smallest, largest) width / height, positive"),
    "augment.flip": _SHARE,
    "augment.color_jitter": _NOT_NEGATIVE,
    "augment.repeats": _POSITIVE,
    "augment.erase": _SHARE,
    "augment.mixup": _NOT_NEGATIVE,
    "augment.cutmix": _NOT_NEGATIVE,
    "augment.mix_probability": _SHARE,
    "augment.mix_switch": _SHARE,
    "augment.mix_group": (lambda v: v >= 2 and v % 2 == 0, "a positive even number"),
    "augment.cutmix_box": (lambda v: v in ("timm", "original"), "timm or original"),
    "augment.label_smoothing": _FRACTION,
    "grace_seconds": _POSITIVE,
    "health.max_skipped": _POSITIVE,
    "health.watchdog_seconds": _POSITIVE,
    "health.spike_factor": (lambda v: v == 0 or 1 < v < math.inf, "0, or a number above 1"),
    "log_every_steps": _POSITIVE,
    "log_maps": _NOT_NEGATIVE,
    "writers": (
        lambda v: all(isinstance(name, str) for name in v) and len(set(v)) == len(v),
        "names such as ('tensorboard',), each once",
    ),
    "profile_steps": (lambda v: not v or _are_steps(v), "(first, last), counted from 1"),
    "keep_latest": (lambda v: v >= 1, "at least 1, or nothing could be resumed"),
    "keep_best": _NOT_NEGATIVE,
}
