"""NMS and RoIAlign with mmcv's interfaces, computed by torchvision."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torchvision.ops
from torch import nn


def nms(
    boxes: torch.Tensor,
    scores: torch.Tensor,
    iou_threshold: float,
    offset: int = 0,
    score_threshold: float = 0,
    max_num: int = -1,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the kept boxes with their scores, `[k, 5]`, and their indices, the highest score first."""
    assert (offset, score_threshold) == (0, 0), "these options are not needed"
    # mmcv compares in single precision, torchvision in double precision.
    kept = torchvision.ops.nms(boxes, scores, float(np.float32(iou_threshold)))
    kept = kept[:max_num] if max_num > 0 else kept
    return torch.cat([boxes[kept], scores[kept, None]], dim=1), kept


def batched_nms(
    boxes: torch.Tensor,
    scores: torch.Tensor,
    idxs: torch.Tensor,
    nms_cfg: Mapping[str, Any] | None,
    class_agnostic: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Applies `nms` to each group of boxes of the same index; boxes of different indices are moved apart."""
    options = dict(nms_cfg)
    assert options.pop("type", "nms") == "nms"
    class_agnostic = options.pop("class_agnostic", class_agnostic)
    apart = boxes if class_agnostic else boxes + (idxs.to(boxes) * (boxes.max() + 1))[:, None]
    max_num = options.pop("max_num", -1)
    kept = nms(apart, scores, **options)[1]
    kept = kept[:max_num] if max_num > 0 else kept
    return torch.cat([boxes[kept], scores[kept, None]], dim=1), kept


def roi_align(
    input: torch.Tensor,
    rois: torch.Tensor,
    output_size: int | tuple[int, int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = 0,
    pool_mode: str = "avg",
    aligned: bool = True,
) -> torch.Tensor:
    """Returns averages over the bins of RoIs `[n, 5]` (index of the image, x1, y1, x2, y2)."""
    assert pool_mode == "avg"
    return torchvision.ops.roi_align(input, rois, output_size, spatial_scale, sampling_ratio, aligned)


class RoIAlign(nn.Module):
    """Module that computes `roi_align`."""

    def __init__(
        self,
        output_size: int | tuple[int, int],
        spatial_scale: float = 1.0,
        sampling_ratio: int = 0,
        pool_mode: str = "avg",
        aligned: bool = True,
    ):
        super().__init__()
        self.output_size = (output_size, output_size) if isinstance(output_size, int) else tuple(output_size)
        self.spatial_scale, self.sampling_ratio = spatial_scale, sampling_ratio
        self.pool_mode, self.aligned = pool_mode, aligned

    def forward(self, input: torch.Tensor, rois: torch.Tensor) -> torch.Tensor:
        """Returns averages over the bins of RoIs."""
        return roi_align(
            input, rois, self.output_size, self.spatial_scale, self.sampling_ratio, self.pool_mode, self.aligned
        )
