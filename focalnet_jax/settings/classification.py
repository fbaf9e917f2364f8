"""The config keys of classification: defaults, meanings and checks."""

from __future__ import annotations

import math
from typing import Any

from ml_collections import ConfigDict, config_dict

from focalnet_jax.settings.checks import FRACTION, NOT_NEGATIVE, PIXELS, POSITIVE, RESIZE_MODES, SHARE
from focalnet_jax.settings.keys import number

BEST_METRIC = "top1"  # ranks checkpoints, see `Settings`
HEADLINE = (("top1", "top-1"), ("top5", "top-5"))  # metrics in percent for reports and sweeps, and their titles
AUTO = ("model.num_classes",)
RESUMABLE = ("data.classes",)
RECORDS = False


def add_keys(config: ConfigDict) -> None:
    """Adds the keys of classification to the keys of the trainer."""
    config.model.num_classes = number(1000)  # auto: the number of classes in the training data
    # Classes that an evaluation ranks; None: all. A number n: only the first n outputs, such as 1000 to evaluate an
    # ImageNet-22K model on ImageNet-1K. To add metrics over a subset of the classes: present (the classes in the
    # evaluation data), or a file or a tuple of class names.
    config.eval_classes = config_dict.placeholder(object)
    # Weights of the classes in the loss: one number per class, or balanced (inverse of how often a class is drawn);
    # None: all classes have the weight 1.
    config.class_weights = config_dict.placeholder(object)

    # File with the class names of the outputs, one per line in their order; None: names stored with the data or weights
    config.data.classes = config_dict.placeholder(str)
    # folder, parquet, webdataset: fraction of the training images to evaluate on, if there is no eval_split; 0: none.
    config.data.held_out = 0.0
    # parquet: column of images, and column of labels; None: found by type and name
    config.data.image_column = config_dict.placeholder(str)
    config.data.label_column = config_dict.placeholder(str)
    # Draws rare classes more often: a class with n images is drawn in proportion to n ** (1 - class_balance).
    config.data.class_balance = 0.0
    # Pixels after resizing and before the centre crop, or (height, width); None: 256/224 of image_size if the mode is
    # shorter, else image_size
    config.data.eval_resize = config_dict.placeholder(object)
    # shorter (resizes the shorter side), stretch, longest (and pads with the mean colour) or none
    config.data.eval_resize_mode = "shorter"

    config.augment = ConfigDict()
    config.augment.crop_scale = (0.08, 1.0)  # random resized crop: range of the fraction of the area
    config.augment.crop_ratio = (3 / 4, 4 / 3)  # random resized crop: range of the aspect ratio, log-uniform
    config.augment.flip = 0.5  # probability of a horizontal flip
    config.augment.policy = ""  # RandAugment or 3-Augment in timm's notation: rand-m9-mstd0.5-inc1 or 3a; empty: none
    config.augment.color_jitter = 0.0  # strength of brightness, contrast and saturation jitter
    config.augment.repeats = 1  # repeated augmentation: differently augmented copies of an example in a batch
    config.augment.label_smoothing = 0.1
    config.augment.erase = 0.0  # probability of random erasing
    config.augment.mixup = 0.0  # alpha of the beta distribution of mixup; 0: no mixup
    config.augment.cutmix = 0.0  # alpha of the beta distribution of cutmix; 0: no cutmix
    config.augment.mix_probability = 1.0  # probability that a group is mixed
    config.augment.mix_switch = 0.5  # probability of cutmix if both mixup and cutmix are on
    config.augment.mix_group = 128  # number of examples that share a lambda and are mixed with each other
    config.augment.cutmix_box = "timm"  # rounding of the box size: timm (up, timm 1.x) or original (down, timm 0.4.12)


def _are_weights(value: Any) -> bool:
    return (
        isinstance(value, tuple | list)
        and all(isinstance(v, int | float) and not isinstance(v, bool) and 0 <= v < math.inf for v in value)
        and sum(value) > 0
    )


def _are_competing(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return bool(value) and all(isinstance(name, str | int) and not isinstance(name, bool) for name in value)
    return bool(value) if isinstance(value, str) else type(value) is int and value > 0


def _is_range(value: tuple[Any, ...], lowest: float, highest: float) -> bool:
    return (
        len(value) == 2
        and all(isinstance(end, int | float) for end in value)
        and lowest < value[0] <= value[1] <= highest
    )


# For each key, a function that returns whether a value is valid, and the valid values in words.
CHECKS = {
    "model.num_classes": POSITIVE,
    "eval_classes": (_are_competing, "a positive number, present, a file of class names, or a tuple of class names"),
    "data.eval_resize": PIXELS,
    "data.held_out": FRACTION,
    "data.class_balance": SHARE,
    "class_weights": (
        lambda v: v == "balanced" or _are_weights(v),
        "balanced, or a number of at least 0 for each class, such as (1, 2.5)",
    ),
    "data.eval_resize_mode": (lambda v: v in RESIZE_MODES, ", ".join(RESIZE_MODES)),
    "augment.crop_scale": (lambda v: _is_range(v, 0, 1), "(smallest, largest) fraction of the area, within (0, 1]"),
    "augment.crop_ratio": (lambda v: _is_range(v, 0, math.inf), "(smallest, largest) width / height, positive"),
    "augment.flip": SHARE,
    "augment.color_jitter": NOT_NEGATIVE,
    "augment.repeats": POSITIVE,
    "augment.erase": SHARE,
    "augment.mixup": NOT_NEGATIVE,
    "augment.cutmix": NOT_NEGATIVE,
    "augment.mix_probability": SHARE,
    "augment.mix_switch": SHARE,
    "augment.mix_group": (lambda v: v >= 2 and v % 2 == 0, "a positive even number"),
    "augment.cutmix_box": (lambda v: v in ("timm", "original"), "timm or original"),
    "augment.label_smoothing": FRACTION,
}
