"""Recognises detectors of mmdetection with FocalNet from the names and shapes of their tensors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from focalnet_jax.convert.candidates import Candidate
from focalnet_jax.convert.detectors import ARCHITECTURES, DetectorHead
from focalnet_jax.convert.tensors import Tensors
from focalnet_jax.convert.weights import ONLY_BACKBONE
from focalnet_jax.errors import UserError

# Patterns of names of tensors that only one detector has, by detector.
_SIGNS = {
    "atss": r"bbox_head\.atss_\w+\.",
    "mask_rcnn": r"roi_head\.mask_head\.(convs|upsample|conv_logits)\.",
    "cascade_mask_rcnn": r"roi_head\.mask_head\.\d+\.(convs|upsample|conv_logits)\.",
    "sparse_rcnn": r"(rpn_head\.init_proposal_\w+|roi_head\.bbox_head\.\d+\.instance_interactive_conv)\.",
}
_PATTERNS = {name: re.compile(sign) for name, sign in _SIGNS.items()}
_ANY = re.compile(rf"(.*\.)?({'|'.join(_SIGNS.values())})")
_CHANNELS = "neck.lateral_convs.0.conv.weight"
# By detector: a tensor with one row per class along its first axis, and the number of further rows.
_CLASSES = {
    "atss": ("bbox_head.atss_cls.weight", 0),
    "mask_rcnn": ("roi_head.bbox_head.fc_cls.weight", 1),  # the background
    "cascade_mask_rcnn": ("roi_head.bbox_head.0.fc_cls.weight", 1),
    "sparse_rcnn": ("roi_head.bbox_head.0.fc_cls.weight", 0),
}
# By detector: tensors whose first axis has the length of an option.
_OPTIONS = {
    "atss": {},
    "mask_rcnn": {"hidden": "roi_head.bbox_head.shared_fcs.0.weight"},
    "cascade_mask_rcnn": {"hidden": "roi_head.bbox_head.0.shared_fcs.0.weight"},
    "sparse_rcnn": {
        "hidden": "roi_head.bbox_head.0.ffn.layers.0.0.weight",
        "proposals": "rpn_head.init_proposal_bboxes.weight",
    },
}
_TOWER = re.compile(r"bbox_head\.cls_convs\.\d+\.conv\.weight")


def may_be_detector(names: Iterable[str]) -> bool:
    """Returns whether tensors with these names include one that only a detector has."""
    return any(map(_ANY.match, names))


def find_detector(chosen: Candidate, tensors: Tensors) -> tuple[str, str] | None:
    """Returns (detector, prefix of its tensors) for the detector around a backbone, or None if there is none.

    The detector is a key of `ARCHITECTURES`.

    Args:
      chosen: the backbone.
      tensors: all tensors of the file.
    """
    for scope in chosen.enclosing():
        inside = [name.removeprefix(scope) for name in tensors if name.startswith(scope)]
        for detector, pattern in _PATTERNS.items():
            if any(map(pattern.match, inside)):
                return detector, scope
    return None


def head_from_shapes(detector: str, shapes: Mapping[str, tuple[int, ...]], source: str) -> tuple[DetectorHead, int]:
    """Returns the options of a detector's neck and head, and the number of classes.

    Args:
      detector: a key of `ARCHITECTURES`.
      shapes: shapes of the detector's tensors by name, without a prefix.
      source: path of the file, for messages.

    Raises:
      UserError: a tensor that determines an option is missing.
    """

    def rows(name: str) -> int:
        if not shapes.get(name):
            raise UserError(
                f"{source} lacks {name}; expected a complete {ARCHITECTURES[detector].title} of mmdetection. "
                f"{ONLY_BACKBONE}"
            )
        return shapes[name][0]

    options = {key: rows(name) for key, name in _OPTIONS[detector].items()}
    if detector == "atss":
        options["convs"] = sum(1 for name in shapes if _TOWER.fullmatch(name))
    last, others = _CLASSES[detector]
    return DetectorHead(detector, rows(_CHANNELS), **options), rows(last) - others
