"""The config keys of object detection: defaults, meanings and checks."""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict, config_dict

from focalnet_jax.settings.checks import NOT_NEGATIVE, POSITIVE, SHARE
from focalnet_jax.settings.keys import number

BEST_METRIC = "bbox_ap"  # ranks checkpoints, see `Settings`
# Metrics in percent for reports and sweeps, and their titles; only detectors with masks have segm_ap.
HEADLINE = (("bbox_ap", "box AP"), ("segm_ap", "mask AP"), ("bbox_ap50", "box AP50"))
AUTO = ("model.num_classes",)
RESUMABLE = ("data.annotations", "data.images")
RECORDS = True

DETECTORS = ("atss", "mask_rcnn", "cascade_mask_rcnn", "sparse_rcnn")
MASKS = ("mask_rcnn", "cascade_mask_rcnn")  # detectors that have masks


def add_keys(config: ConfigDict) -> None:
    """Adds the keys of detection to the keys of the trainer.

    `data.image_size` is the height and width of the canvas of images that are at least as wide as high. For other
    images, height and width of the canvas are exchanged.
    """
    config.model.num_classes = number(80)  # auto: the number of classes in the training data

    config.head = ConfigDict()
    config.head.name = "atss"
    config.head.channels = 256  # channels of the feature pyramid and of the head
    # None: the number in the original code
    config.head.convs = config_dict.placeholder(int)  # atss: number of convolutions in each tower of the head
    config.head.hidden = config_dict.placeholder(int)  # not atss: outputs of the fully connected layers of a box head
    config.head.proposals = config_dict.placeholder(int)  # sparse_rcnn: number of learned proposals

    config.rois = ConfigDict()  # training of mask_rcnn and cascade_mask_rcnn
    config.rois.candidates = 2000  # boxes per level before the non-maximum suppression of proposals
    config.rois.proposals = config_dict.placeholder(int)  # proposals per image; None: as in the original code
    config.rois.samples = 512  # number of RoIs sampled per image for the losses
    config.rois.positives = 0.25  # largest fraction of these RoIs that are positive (have an object)

    # coco: JSON file of the training split and of the evaluation split, and folders of their images; None: found in
    # data.path
    config.data.annotations = config_dict.placeholder(tuple)
    config.data.images = config_dict.placeholder(tuple)
    # Largest number of cells per side of an object's mask as sent to the devices; larger masks are reduced to fit.
    config.data.mask_side = 112
    config.data.max_boxes = 100  # boxes per training image; if there are more, the largest are kept
    # Smallest side of a training image in pixels; smaller images, and images without boxes, are left out.
    config.data.min_side = 32

    config.augment = ConfigDict()
    config.augment.flip = 0.5  # probability of a horizontal flip
    # Lengths of the shorter side of training images in pixels, one of which is drawn; the longer side is at most
    # `long_side`.
    config.augment.short_sides = (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)
    config.augment.long_side = 1333
    # Probability that an image is first resized to one of `crop_short_sides` and cropped.
    config.augment.crop = 0.5
    config.augment.crop_short_sides = (400, 500, 600)
    config.augment.crop_range = (384, 600)  # smallest and largest side of a crop in pixels

    config.inference = ConfigDict()  # inference in evaluations and predictions
    config.inference.box = (1333, 800)  # long and short side that an image is resized to fit into
    # Whether images are padded to multiples of 32, as in the original, and not to the canvases: the padding changes
    # FocalNet's outputs slightly, and each size of a padded image compiles a program.
    config.inference.exact = False
    config.inference.candidates = 1000  # boxes per level before non-maximum suppression
    # None: the number in the original code
    config.inference.score = config_dict.placeholder(float)  # smallest score of a detection
    # Non-maximum suppression removes a box whose IoU with a better box of the same class is above this; sparse_rcnn has
    # no suppression.
    config.inference.iou = config_dict.placeholder(float)
    config.inference.detections = 100  # largest number of detections per image


def _is_box(value: Any) -> bool:
    return len(value) == 2 and all(type(side) is int and side > 0 for side in value)


def _are_sides(value: Any) -> bool:
    return len(value) > 0 and all(type(side) is int and side > 0 for side in value)


def _is_range(value: Any) -> bool:
    return _is_box(value) and value[0] <= value[1]


def _is_canvas(value: Any) -> bool:
    sides = (value, value) if type(value) is int else value
    return _is_box(sides) and sides[0] <= sides[1] and all(side % 32 == 0 for side in sides)


def _are_paths(value: Any) -> bool:
    return len(value) == 2 and all(isinstance(path, str) for path in value)


# For each key, a function that returns whether a value is valid, and the valid values in words.
CHECKS = {
    "model.num_classes": POSITIVE,
    "head.name": (lambda v: v in DETECTORS, " or ".join(DETECTORS)),
    "head.channels": POSITIVE,
    "head.convs": POSITIVE,
    "head.hidden": POSITIVE,
    "head.proposals": POSITIVE,
    "rois.candidates": POSITIVE,
    "rois.proposals": POSITIVE,
    "rois.samples": POSITIVE,
    "rois.positives": SHARE,
    "data.image_size": (_is_canvas, "(short, long) side in pixels, multiples of 32, such as (800, 1344)"),
    "data.annotations": (_are_paths, "two files, of the training split and of the evaluation split"),
    "data.images": (_are_paths, "two folders, of the training split and of the evaluation split"),
    "data.mask_side": (lambda v: v > 0 and v % 8 == 0, "a positive multiple of 8"),
    "data.max_boxes": POSITIVE,
    "data.min_side": NOT_NEGATIVE,
    "augment.flip": SHARE,
    "augment.crop": SHARE,
    "augment.short_sides": (_are_sides, "sides in pixels such as (480, 512, 544)"),
    "augment.long_side": POSITIVE,
    "augment.crop_short_sides": (_are_sides, "sides in pixels such as (400, 500, 600)"),
    "augment.crop_range": (_is_range, "(smallest, largest) side in pixels, such as (384, 600)"),
    "inference.box": (_is_box, "(long, short) side in pixels, such as (1333, 800)"),
    "inference.candidates": POSITIVE,
    "inference.score": SHARE,
    "inference.iou": SHARE,
    "inference.detections": POSITIVE,
}
