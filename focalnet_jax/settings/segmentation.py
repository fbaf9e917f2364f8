"""The config keys of semantic segmentation: defaults, meanings and checks."""

from __future__ import annotations

import math
from typing import Any

from ml_collections import ConfigDict, FrozenConfigDict, config_dict

from focalnet_jax.errors import UserError
from focalnet_jax.settings.checks import FRACTION, NOT_NEGATIVE, PIXELS, POSITIVE, SHARE
from focalnet_jax.settings.keys import number

BEST_METRIC = "miou"  # ranks checkpoints, see `Settings`
HEADLINE = (("miou", "mIoU"), ("macc", "mean accuracy"))  # metrics in percent for reports and sweeps, and their titles
AUTO = ("model.num_classes",)
RESUMABLE = ("data.classes",)
RECORDS = False


def add_keys(config: ConfigDict) -> None:
    """Adds the keys of segmentation to the keys of the trainer.

    `data.image_size` is the size of the crops that a model is trained on.
    """
    config.model.num_classes = number(150)  # auto: the number of classes in the training data

    config.head = ConfigDict()
    config.head.channels = 512  # channels of UPerNet's decode head
    config.head.pool_scales = (1, 2, 3, 6)  # pyramid pooling: number of windows along each side, per branch
    config.head.dropout = 0.1  # probability that a channel of the classifier's input is set to zero
    config.head.auxiliary_channels = 256
    config.head.auxiliary_weight = 0.4  # factor of the auxiliary head's loss; 0: no auxiliary head
    # Divisor of the loss: all (number of pixels of the crops, as the original), valid (number of pixels that are not
    # ignored) or weighted (sum of the class weights of these pixels, as PyTorch and mmsegmentation 1.x).
    config.head.average = "all"
    config.head.class_weights = ()  # factor of the loss of each class, in the order of the outputs; (): all 1
    # Online hard example mining: smallest number of pixels per image that count in the loss; 0: all pixels count.
    config.head.ohem_kept = 0
    # Pixels count if the probability of their class is lower than this. None: only the `ohem_kept` pixels per image
    # with the largest losses count.
    config.head.ohem_threshold = config_dict.placeholder(float)

    # File with the class names, one per line, with or without a colour "NAME R G B"; ade20k: the built-in list; None:
    # the names stored with the data
    config.data.classes = config_dict.placeholder(str)
    # Whether label 0 means ignored and label n means class n - 1; None: depends on the data
    config.data.reduce_zero_label = config_dict.placeholder(bool)
    config.data.tile = config_dict.placeholder(int)  # bluemarble: pixels per side of a tile; None: 128

    config.augment = ConfigDict()
    config.augment.box = (2048, 512)  # long and short side of the box that an image fits into at ratio 1
    config.augment.ratio = (0.5, 2.0)  # range of the factor of the box, drawn uniformly
    config.augment.cat_max_ratio = 0.75  # a crop is drawn again if one class fills this share; 1: never
    config.augment.flip = 0.5  # probability of a horizontal flip
    config.augment.photometric = True  # whether brightness, contrast, saturation and hue are distorted

    config.inference = ConfigDict()  # inference in evaluations and predictions
    config.inference.mode = "whole"  # whole (images at once) or slide (overlapping windows, whose logits are averaged)
    config.inference.crop = (512, 512)  # slide: largest height and width of a window
    config.inference.stride = (341, 341)  # slide: distance of windows down and to the right
    config.inference.scales = (1.0,)  # ratios that multiply the box; probabilities are averaged over them
    config.inference.flip = False  # whether probabilities are averaged over the image and its mirror image
    # Long and short side of the box that an image is resized to fit into; None: augment.box
    config.inference.box = config_dict.placeholder(tuple)
    # Sides of resized images are rounded to multiples of this, so that few programs are compiled; 1: exact sizes
    config.inference.multiple = 32


def _is_box(value: Any) -> bool:
    return len(value) == 2 and all(type(side) is int and side > 0 for side in value)


def _are_ratios(value: Any) -> bool:
    return len(value) > 0 and all(isinstance(ratio, int | float) and 0 < ratio <= 8 for ratio in value)


def _is_ratio(value: Any) -> bool:
    return (
        len(value) == 2 and all(isinstance(end, int | float) for end in value) and 0 < value[0] <= value[1] < math.inf
    )


def _are_weights(value: Any) -> bool:
    numbers = all(isinstance(each, int | float) and not isinstance(each, bool) for each in value)
    return numbers and all(0 <= each < math.inf for each in value) and (not value or sum(value) > 0)


def check_loss(head: ConfigDict | FrozenConfigDict, num_classes: int) -> None:
    """Checks keys of `head` that depend on each other or on the number of classes.

    Raises:
      UserError: the numbers of `class_weights` and of classes differ, or `ohem_threshold` is set without `ohem_kept`.
    """
    if head.class_weights and len(head.class_weights) != num_classes:
        raise UserError(
            f"head.class_weights has {len(head.class_weights)} numbers, but there are {num_classes} classes: set one "
            "number for each class, in the order of the classes"
        )
    if head.ohem_threshold is not None and not head.ohem_kept:
        raise UserError(
            f"head.ohem_threshold={head.ohem_threshold} is not used with head.ohem_kept=0: set head.ohem_kept, such as "
            "100000 pixels per image"
        )


# For each key, a function that returns whether a value is valid, and the valid values in words.
CHECKS = {
    "model.num_classes": POSITIVE,
    "head.channels": POSITIVE,
    "head.auxiliary_channels": POSITIVE,
    "head.auxiliary_weight": NOT_NEGATIVE,
    "head.dropout": FRACTION,
    "head.pool_scales": (lambda v: all(type(n) is int and n > 0 for n in v), "numbers of windows such as (1, 2, 3, 6)"),
    "head.average": (lambda v: v in ("all", "valid", "weighted"), "all, valid or weighted"),
    "head.class_weights": (_are_weights, "numbers of at least 0, one per class, such as (1.0, 0.5)"),
    "head.ohem_kept": NOT_NEGATIVE,
    "head.ohem_threshold": SHARE,
    "data.image_size": PIXELS,
    "data.tile": POSITIVE,
    "augment.box": (_is_box, "(long, short) side in pixels, such as (2048, 512)"),
    "augment.ratio": (_is_ratio, "(smallest, largest) ratio, positive"),
    "augment.cat_max_ratio": SHARE,
    "augment.flip": SHARE,
    "inference.mode": (lambda v: v in ("whole", "slide"), "whole or slide"),
    "inference.crop": (_is_box, "(height, width) in pixels, such as (512, 512)"),
    "inference.stride": (_is_box, "(down, right) in pixels, such as (341, 341)"),
    "inference.scales": (_are_ratios, "positive ratios such as (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)"),
    "inference.box": (_is_box, "(long, short) side in pixels, such as (2048, 512)"),
    "inference.multiple": (lambda v: 1 <= v <= 512, "1 to 512 pixels"),
}
