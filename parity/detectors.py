"""Builds mmdetection's detectors with the original's FocalNet, and this package's with the same weights."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

from focalnet_jax.convert.tables_detection import tensors_to_variables
from focalnet_jax.model import FocalNetConfig
from focalnet_jax.model.heads.atss import ATSS
from focalnet_jax.model.heads.mask_rcnn import CascadeMaskRCNN, MaskRCNN
from focalnet_jax.model.heads.sparse_rcnn import STAGES, SparseRCNN
from focalnet_jax.model.precision import get_precision
from parity import mmcv_stub
from parity.dense import DenseFocalNet
from parity.detector_recipes import (
    atss_losses,
    atss_training,
    box_losses,
    inference,
    rpn_losses,
    sparse_losses,
    sparse_training,
    training,
)
from parity.pytorch import randomized
from parity.upernet import arrays

mmcv_stub.install()
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # mmcv warns about operations that mmcv-lite lacks
    import mmdet.models  # noqa: F401 - registers the models
    from mmdet.models.task_modules.samplers import RandomSampler
    from mmdet.registry import MODELS, TASK_UTILS
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine import ConfigDict
    from mmengine.registry import DefaultScope
    from mmengine.structures import InstanceData

DETECTORS = {"atss": ATSS, "mask_rcnn": MaskRCNN, "cascade_mask_rcnn": CascadeMaskRCNN, "sparse_rcnn": SparseRCNN}
_STRIDES = [4, 8, 16, 32, 64, 128]


class DetectorFocalNet(DenseFocalNet):
    """The original's backbone with the maps and norms of some stages only, as in mmdetection's `out_indices`."""

    def __init__(self, config: FocalNetConfig, outputs: Sequence[int]):
        super().__init__(config)
        self.outputs = outputs
        for stage in set(range(len(config.dims))) - set(outputs):
            delattr(self, f"norm{stage}")
            self.add_module(f"norm{stage}", torch.nn.Identity())  # without parameters

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Returns one map per stage in `outputs`."""
        maps = super().forward(images)
        return [maps[stage] for stage in self.outputs]


MODELS.register_module(module=DetectorFocalNet)


def build(name: str, config: FocalNetConfig, num_classes: int, *, seed: int = 0, **options: int) -> torch.nn.Module:
    """Returns mmdetection's detector with random parameters and running statistics, for evaluation.

    The arguments are those of the original's configuration files, with BatchNorm instead of SyncBatchNorm, which
    PyTorch computes only on GPUs; `options` are the arguments of this package's detector.
    """
    torch.manual_seed(seed)
    make = {"atss": _atss, "sparse_rcnn": _sparse_rcnn}.get(name, _mask_rcnn)
    with DefaultScope.overwrite_default_scope("mmdet"):  # other tests of this process make mmsegmentation the default
        model = MODELS.build(make(config, num_classes, cascade=name.startswith("cascade"), **options))
    for key, buffer in model.named_buffers():
        if key.endswith("running_mean"):
            buffer.copy_(0.1 * torch.randn_like(buffer))
        elif key.endswith("running_var"):
            buffer.copy_(0.5 + torch.rand_like(buffer))
    return randomized(model)


class OrderedSampler(RandomSampler):
    """Sampler that takes the boxes of the largest given numbers, instead of random ones.

    `orders` holds the numbers `[P]` of the boxes of each call.
    """

    orders: ClassVar[list[np.ndarray]] = []

    def sample(self, assign_result: Any, pred_instances: Any, gt_instances: Any, **options: Any) -> Any:
        """Returns the samples, for which it takes the next numbers."""
        self.order = torch.from_numpy(np.array(self.orders.pop(0)))
        return super().sample(assign_result, pred_instances, gt_instances, **options)

    def random_choice(self, gallery: torch.Tensor, num: int) -> torch.Tensor:
        """Returns the `num` members of the gallery with the largest numbers."""
        return gallery[torch.argsort(-self.order[gallery], stable=True)[:num]]


TASK_UTILS.register_module(module=OrderedSampler)


def ours_from(
    theirs: torch.nn.Module, name: str, config: FocalNetConfig, num_classes: int, **options: int
) -> nnx.Module:
    """Returns this package's detector with the weights of mmdetection's."""
    make = DETECTORS[name]
    ours = nnx.eval_shape(
        lambda: make(config, num_classes, precision=get_precision("float32"), rngs=nnx.Rngs(0), **options)
    )
    graph, state = nnx.split(ours)
    variables = tensors_to_variables(arrays(theirs), nnx.to_pure_dict(state), config, name)
    nnx.replace_by_pure_dict(state, jax.tree.map(jnp.asarray, variables))
    return nnx.merge(graph, state)


def sample(
    size: tuple[int, int],
    padded: tuple[int, int],
    boxes: np.ndarray,
    labels: np.ndarray,
    bitmaps: np.ndarray | None = None,
) -> DetDataSample:
    """Returns what mmdetection knows about an image whose size was not changed.

    Args:
      size: height and width of the image.
      padded: height and width with padding.
      boxes: boxes of the objects, `[n, 4]`.
      labels: their classes, `[n]`.
      bitmaps: their masks, `[n, *padded]`.
    """
    known = dict(img_shape=size, pad_shape=padded, batch_input_shape=padded, ori_shape=size, scale_factor=(1.0, 1.0))
    out = DetDataSample(metainfo=known)
    out.gt_instances = InstanceData()
    out.gt_instances.bboxes = torch.from_numpy(np.float32(boxes)).reshape(-1, 4)
    out.gt_instances.labels = torch.from_numpy(np.int64(labels))
    if bitmaps is not None:
        out.gt_instances.masks = BitmapMasks(np.uint8(bitmaps), *padded)
    return out


def _backbone_and_neck(config: FocalNetConfig, first: int, channels: int, **neck: Any) -> dict[str, Any]:
    outputs = tuple(range(first, len(config.dims)))
    widths = [config.dims[stage] for stage in outputs]
    return dict(
        backbone=dict(type="DetectorFocalNet", config=config, outputs=outputs),
        neck=dict(type="FPN", in_channels=widths, out_channels=channels, **neck),
    )


def _atss(config: FocalNetConfig, classes: int, channels: int, convs: int, *, cascade: bool) -> dict[str, Any]:
    anchors = dict(ratios=[1.0], octave_base_scale=8, scales_per_octave=1, strides=_STRIDES[1:])
    head = dict(
        type="ATSSHead",
        num_classes=classes,
        in_channels=channels,
        feat_channels=channels,
        stacked_convs=convs,
        anchor_generator=dict(type="AnchorGenerator", **anchors),
        **atss_losses(),
    )
    return dict(
        type="ATSS",
        bbox_head=head,
        train_cfg=ConfigDict(atss_training()),
        # mmdetection 3 selects `nms_pre` pairs of an anchor and a class, 2.11 anchors: here, both select all.
        test_cfg=ConfigDict(nms_pre=100_000, score_thr=0.05, nms=dict(type="nms", iou_threshold=0.6), max_per_img=100),
        **_backbone_and_neck(config, 1, channels, start_level=0, add_extra_convs="on_output", num_outs=5),
    )


def _mask_rcnn(
    config: FocalNetConfig,
    classes: int,
    channels: int,
    hidden: int,
    numbers: dict[str, int] | None = None,
    *,
    cascade: bool,
) -> dict[str, Any]:
    box_heads = [_box_head(classes, channels, hidden, stage, cascade=cascade) for stage in range(3 if cascade else 1)]
    mask_head = dict(
        type="FCNMaskHead",
        num_convs=4,
        in_channels=channels,
        conv_out_channels=channels,
        num_classes=classes,
        loss_mask=dict(type="CrossEntropyLoss", use_mask=True),
    )
    roi_head = dict(
        type="CascadeRoIHead" if cascade else "StandardRoIHead",
        bbox_roi_extractor=_extractor(7, channels),
        bbox_head=box_heads if cascade else box_heads[0],
        mask_roi_extractor=_extractor(14, channels),
        mask_head=[mask_head] * 3 if cascade else mask_head,
    )
    rpn_head = dict(
        type="RPNHead",
        in_channels=channels,
        feat_channels=channels,
        anchor_generator=dict(type="AnchorGenerator", scales=[8], ratios=[0.5, 1.0, 2.0], strides=_STRIDES[:5]),
        **rpn_losses(cascade=cascade),
    )
    stages = dict(num_stages=3, stage_loss_weights=[1, 0.5, 0.25]) if cascade else {}
    return dict(
        type="CascadeRCNN" if cascade else "MaskRCNN",
        rpn_head=rpn_head,
        roi_head=roi_head | stages,
        train_cfg=ConfigDict(training(cascade=cascade, **(numbers or {}))),
        test_cfg=ConfigDict(inference()),
        **_backbone_and_neck(config, 0, channels, num_outs=5),
    )


def _box_head(classes: int, channels: int, hidden: int, stage: int, *, cascade: bool) -> dict[str, Any]:
    return dict(
        type="ConvFCBBoxHead",
        num_shared_convs=4 if cascade else 0,
        num_shared_fcs=1 if cascade else 2,
        in_channels=channels,
        conv_out_channels=channels,
        fc_out_channels=hidden,
        roi_feat_size=7,
        num_classes=classes,
        reg_class_agnostic=False,
        norm_cfg=dict(type="BN") if cascade else None,
        **box_losses(stage, cascade=cascade),
    )


def _sparse_rcnn(
    config: FocalNetConfig, classes: int, channels: int, proposals: int, dynamic: int, hidden: int, *, cascade: bool
) -> dict[str, Any]:
    convs = dict(in_channels=channels, feat_channels=dynamic, out_channels=channels, input_feat_shape=7)
    relu = dict(type="ReLU", inplace=True)
    head = dict(
        type="DIIHead",
        num_classes=classes,
        num_ffn_fcs=2,
        num_heads=8,
        num_cls_fcs=1,
        num_reg_fcs=3,
        feedforward_channels=hidden,
        in_channels=channels,
        ffn_act_cfg=relu,
        dynamic_conv_cfg=dict(type="DynamicConv", act_cfg=relu, norm_cfg=dict(type="LN"), **convs),
        **sparse_losses(),
    )
    roi_head = dict(
        type="SparseRoIHead",
        num_stages=STAGES,
        stage_loss_weights=[1] * STAGES,
        proposal_feature_channel=channels,
        bbox_roi_extractor=_extractor(7, channels, samples=2),
        bbox_head=[head] * STAGES,
    )
    return dict(
        type="SparseRCNN",
        rpn_head=dict(type="EmbeddingRPNHead", num_proposals=proposals, proposal_feature_channel=channels),
        roi_head=roi_head,
        train_cfg=ConfigDict(rpn=None, rcnn=[sparse_training() for _ in range(STAGES)]),
        test_cfg=ConfigDict(rpn=None, rcnn=dict(max_per_img=100)),
        **_backbone_and_neck(config, 0, channels, start_level=0, add_extra_convs="on_input", num_outs=4),
    )


def _extractor(side: int, channels: int, samples: int = 0) -> dict[str, Any]:
    layer = dict(type="RoIAlign", output_size=side, sampling_ratio=samples)
    return dict(type="SingleRoIExtractor", roi_layer=layer, out_channels=channels, featmap_strides=_STRIDES[:4])
