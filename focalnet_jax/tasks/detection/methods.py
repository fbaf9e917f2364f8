"""Chooses the `Method` of the detector in a config."""

from __future__ import annotations

from ml_collections import FrozenConfigDict

from focalnet_jax.config import model_config
from focalnet_jax.convert.detectors import head_from_dict
from focalnet_jax.tasks.detection.atss import ATSSMethod
from focalnet_jax.tasks.detection.mask_rcnn import CASCADE, MASK_RCNN, MaskRCNNMethod, Sampling
from focalnet_jax.tasks.detection.method import Method
from focalnet_jax.tasks.detection.options import options_of
from focalnet_jax.tasks.detection.rpn import RPN
from focalnet_jax.tasks.detection.sparse_rcnn import SparseRCNNMethod


def method_of(config: FrozenConfigDict) -> Method:
    """Returns the `Method` that trains and runs the detector of a config."""
    classes, options = config.model.num_classes, options_of(config)
    levels = len(model_config(config).depths) + 1
    if config.head.name == "atss":
        return ATSSMethod(classes, levels, options)  # one level per stage except the first, and two more
    if config.head.name == "sparse_rcnn":
        return SparseRCNNMethod(classes, head_from_dict(config.head.to_dict()).proposals, options)
    if config.head.name == "mask_rcnn":
        return MaskRCNNMethod(classes, levels, options, _sampling(config, 1000), RPN(), MASK_RCNN)
    rpn = RPN(smooth=1 / 9, crossing=False)
    return MaskRCNNMethod(classes, levels, options, _sampling(config, 2000), rpn, CASCADE)


def _sampling(config: FrozenConfigDict, proposals: int) -> Sampling:
    """Returns the numbers of boxes in training. `proposals` is used if `rois.proposals` is not set."""
    rois = config.rois
    return Sampling(
        rois.candidates,
        proposals if rois.proposals is None else rois.proposals,
        rois.samples,
        max(1, int(rois.samples * rois.positives)),
    )
