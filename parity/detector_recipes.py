"""Losses, assignment, sampling and inference of mmdetection's detectors, as in the original's configuration files."""

from __future__ import annotations

from typing import Any

STDS = ([0.1, 0.1, 0.2, 0.2], [0.05, 0.05, 0.1, 0.1], [0.033, 0.033, 0.067, 0.067])
"""Divisors of the deltas of each stage of the cascade; Mask R-CNN has the first."""


def coder(stds: list[float]) -> dict[str, Any]:
    """Returns the coder of deltas with these divisors."""
    return dict(type="DeltaXYWHBBoxCoder", target_means=[0.0] * 4, target_stds=stds)


def rpn_losses(*, cascade: bool) -> dict[str, Any]:
    """Returns the losses and the coder of the region proposal network."""
    boxes = dict(type="SmoothL1Loss", beta=1 / 9) if cascade else dict(type="L1Loss")
    return dict(bbox_coder=coder([1.0] * 4), loss_cls=dict(type="CrossEntropyLoss", use_sigmoid=True), loss_bbox=boxes)


def box_losses(stage: int, *, cascade: bool) -> dict[str, Any]:
    """Returns the losses and the coder of a box head."""
    boxes = dict(type="GIoULoss", loss_weight=10.0) if cascade else dict(type="L1Loss")
    return dict(
        bbox_coder=coder(STDS[stage]),
        loss_cls=dict(type="CrossEntropyLoss"),
        loss_bbox=boxes,
        reg_decoded_bbox=cascade,
    )


def training(*, cascade: bool, rois: int = 512, candidates: int = 2000, proposals: int = 1000) -> dict[str, Any]:
    """Returns `train_cfg`. A proposal without area is kept, as in mmdetection 2.11."""

    def assigner(positive: float, negative: float, least: float, low: bool) -> dict[str, Any]:
        thresholds = dict(pos_iou_thr=positive, neg_iou_thr=negative, min_pos_iou=least, match_low_quality=low)
        return dict(type="MaxIoUAssigner", ignore_iof_thr=-1, **thresholds)

    def sampler(number: int, fraction: float, with_objects: bool) -> dict[str, Any]:
        return dict(type="OrderedSampler", num=number, pos_fraction=fraction, add_gt_as_proposals=with_objects)

    def stage(overlap: float) -> dict[str, Any]:
        assigned = assigner(overlap, overlap, overlap, not cascade)
        return dict(assigner=assigned, sampler=sampler(rois, 0.25, True), mask_size=28, pos_weight=-1, debug=False)

    stages = [stage(overlap) for overlap in ((0.5, 0.6, 0.7) if cascade else (0.5,))]
    return dict(
        rpn=dict(
            assigner=assigner(0.7, 0.3, 0.3, True),
            sampler=sampler(256, 0.5, False),
            allowed_border=0 if cascade else -1,
            pos_weight=-1,
            debug=False,
        ),
        rpn_proposal=suppression(candidates, proposals, -1),
        rcnn=stages if cascade else stages[0],
    )


def atss_losses() -> dict[str, Any]:
    """Returns the losses and the coder of ATSS."""
    return dict(
        bbox_coder=coder(STDS[0]),
        loss_cls=dict(type="FocalLoss", use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_bbox=dict(type="GIoULoss", loss_weight=2.0),
        loss_centerness=dict(type="CrossEntropyLoss", use_sigmoid=True, loss_weight=1.0),
    )


def atss_training() -> dict[str, Any]:
    """Returns `train_cfg` of ATSS."""
    return dict(assigner=dict(type="ATSSAssigner", topk=9), allowed_border=-1, pos_weight=-1, debug=False)


def sparse_losses() -> dict[str, Any]:
    """Returns the losses and the coder of a stage of Sparse R-CNN."""
    return dict(
        bbox_coder=dict(coder([0.5, 0.5, 1.0, 1.0]), clip_border=False),
        loss_cls=dict(type="FocalLoss", use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=2.0),
        loss_bbox=dict(type="L1Loss", loss_weight=5.0),
        loss_iou=dict(type="GIoULoss", loss_weight=2.0),
    )


def sparse_training() -> dict[str, Any]:
    """Returns the assignment of a stage of Sparse R-CNN."""
    costs = [
        dict(type="FocalLossCost", weight=2.0),
        dict(type="BBoxL1Cost", weight=5.0, box_format="xyxy"),
        dict(type="IoUCost", iou_mode="giou", weight=2.0),
    ]
    assigner = dict(type="HungarianAssigner", match_costs=costs)
    return dict(assigner=assigner, sampler=dict(type="PseudoSampler"), pos_weight=1)


def suppression(candidates: int, proposals: int, least: int) -> dict[str, Any]:
    """Returns the options of the proposals' non-maximum suppression; `least` is a side that they must exceed."""
    nms = dict(type="nms", iou_threshold=0.7)
    return dict(nms_pre=candidates, max_per_img=proposals, nms=nms, min_bbox_size=least)


def inference(candidates: int = 1000, proposals: int = 1000) -> dict[str, Any]:
    """Returns `test_cfg`."""
    boxes = dict(score_thr=0.05, nms=dict(type="nms", iou_threshold=0.5), max_per_img=100, mask_thr_binary=0.5)
    return dict(rpn=suppression(candidates, proposals, 0), rcnn=boxes)
