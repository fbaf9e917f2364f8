"""Builds mmdetection's detectors from the configuration files in its wheel, with maps or a FocalNet as the backbone."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from parity import mmcv_stub
from parity.dense import DenseFocalNet

mmcv_stub.install()
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # mmcv warns about operations that mmcv-lite lacks
    import mmdet
    import mmdet.models
    from mmdet.registry import MODELS
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmdet.utils import register_all_modules
    from mmengine.config import Config
    from mmengine.structures import InstanceData

CONFIGS = {
    "atss": "atss/atss_r50_fpn_1x_coco.py",
    "mask_rcnn": "mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py",
    "cascade_mask_rcnn": "cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py",
    "sparse_rcnn": "sparse_rcnn/sparse-rcnn_r50_fpn_300-proposals_crop-ms-480-800-3x_coco.py",
}


class GivenMaps(nn.Module):
    """Backbone that returns its inputs: the maps of all stages, which a detector passes on to its neck."""

    def forward(self, maps: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        """Returns the maps `[B, C, h, w]`."""
        return maps


MODELS.register_module(module=GivenMaps)
MODELS.register_module(module=DenseFocalNet)


def config(name: str) -> Config:
    """Returns the configuration of a detector, a key of `CONFIGS`."""
    return Config.fromfile(Path(mmdet.__file__).parent / ".mim" / "configs" / CONFIGS[name])


def build(
    name: str,
    dims: Sequence[int],
    num_classes: int,
    backbone: dict[str, Any] | None = None,
    change: dict[str, Any] | None = None,
) -> nn.Module:
    """Returns a detector of mmdetection with random parameters, for evaluation.

    Args:
      name: key of `CONFIGS`.
      dims: channels of the maps of the four stages.
      num_classes: number of classes.
      backbone: configuration of the backbone. By default, the detector's inputs are the maps of the stages.
      change: values of further keys of the model, such as `{"test_cfg.score_thr": 0.1}`.
    """
    whole = config(name)
    whole.merge_from_dict({f"model.{key}": value for key, value in (change or {}).items()})
    model = whole.model
    model.backbone = backbone or dict(type="GivenMaps")
    model.neck.in_channels = list(dims)
    _set(model, "num_classes", num_classes)
    register_all_modules()  # makes mmdetection's registry the default one
    return MODELS.build(model).eval()


def _set(node: Any, key: str, value: Any) -> None:
    """Sets all values of a key in nested dicts and lists."""
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        _set(child, key, value)
    if isinstance(node, dict) and key in node:
        node[key] = value


def sample(
    size: tuple[int, int],
    boxes: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    bitmaps: np.ndarray | None = None,
    *,
    padded: tuple[int, int] | None = None,
    scale: tuple[float, float] = (1.0, 1.0),
) -> DetDataSample:
    """Returns what mmdetection knows about an image.

    Args:
      size: height and width of the resized image.
      boxes: ground truth `[n, 4]` in pixels of the resized image.
      labels: classes `[n]`.
      bitmaps: masks `[n, *size]`.
      padded: height and width with padding; by default `size`.
      scale: width and height of the resized image divided by those of the stored image.
    """
    stored = (round(size[0] / scale[1]), round(size[1] / scale[0]))
    known = dict(img_shape=size, pad_shape=padded or size, batch_input_shape=padded or size, ori_shape=stored)
    out = DetDataSample(metainfo=known | dict(scale_factor=scale))
    out.gt_instances = InstanceData()
    if boxes is not None:
        out.gt_instances.bboxes = torch.from_numpy(np.float32(boxes)).reshape(-1, 4)
        out.gt_instances.labels = torch.from_numpy(np.int64(labels))
    if bitmaps is not None:
        out.gt_instances.masks = BitmapMasks(np.uint8(bitmaps), *(padded or size))
    return out
