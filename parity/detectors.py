"""Builds mmdetection's detectors with the original's FocalNet, and this package's with the same weights."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
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
from parity.pytorch import randomized
from parity.upernet import arrays

mmcv_stub.install()
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # mmcv warns about operations that mmcv-lite lacks
    import mmdet.models  # noqa: F401 - registers the models
    from mmdet.registry import MODELS
    from mmengine import ConfigDict
    from mmengine.registry import DefaultScope

DETECTORS = {"atss": ATSS, "mask_rcnn": MaskRCNN, "cascade_mask_rcnn": CascadeMaskRCNN, "sparse_rcnn": SparseRCNN}
_STRIDES = [4, 8, 16, 32, 64, 128]
_CODER = dict(type="DeltaXYWHBBoxCoder", target_means=[0.0] * 4, target_stds=[0.1, 0.1, 0.2, 0.2])


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
        bbox_coder=_CODER,
        loss_cls=dict(type="FocalLoss", use_sigmoid=True),
    )
    return dict(
        type="ATSS",
        bbox_head=head,
        **_backbone_and_neck(config, 1, channels, start_level=0, add_extra_convs="on_output", num_outs=5),
    )


def _mask_rcnn(config: FocalNetConfig, classes: int, channels: int, hidden: int, *, cascade: bool) -> dict[str, Any]:
    box_head = dict(
        type="ConvFCBBoxHead",
        num_shared_convs=4 if cascade else 0,
        num_shared_fcs=1 if cascade else 2,
        in_channels=channels,
        conv_out_channels=channels,
        fc_out_channels=hidden,
        roi_feat_size=7,
        num_classes=classes,
        bbox_coder=_CODER,
        reg_class_agnostic=False,
        norm_cfg=dict(type="BN") if cascade else None,
    )
    mask_head = dict(
        type="FCNMaskHead", num_convs=4, in_channels=channels, conv_out_channels=channels, num_classes=classes
    )
    roi_head = dict(
        type="CascadeRoIHead" if cascade else "StandardRoIHead",
        bbox_roi_extractor=_extractor(7, channels),
        bbox_head=[box_head] * 3 if cascade else box_head,
        mask_roi_extractor=_extractor(14, channels),
        mask_head=[mask_head] * 3 if cascade else mask_head,
    )
    rpn_head = dict(
        type="RPNHead",
        in_channels=channels,
        feat_channels=channels,
        anchor_generator=dict(type="AnchorGenerator", scales=[8], ratios=[0.5, 1.0, 2.0], strides=_STRIDES[:5]),
        bbox_coder=_CODER,
    )
    stages = dict(num_stages=3, stage_loss_weights=[1, 0.5, 0.25]) if cascade else {}
    return dict(
        type="CascadeRCNN" if cascade else "MaskRCNN",
        rpn_head=rpn_head,
        roi_head=roi_head | stages,
        train_cfg=None,
        test_cfg=ConfigDict(rpn={}, rcnn={}),
        **_backbone_and_neck(config, 0, channels, num_outs=5),
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
        loss_cls=dict(type="FocalLoss", use_sigmoid=True),
        bbox_coder=_CODER,
    )
    roi_head = dict(
        type="SparseRoIHead",
        num_stages=STAGES,
        stage_loss_weights=[1] * STAGES,
        proposal_feature_channel=channels,
        bbox_roi_extractor=_extractor(7, channels),
        bbox_head=[head] * STAGES,
    )
    return dict(
        type="SparseRCNN",
        rpn_head=dict(type="EmbeddingRPNHead", num_proposals=proposals, proposal_feature_channel=channels),
        roi_head=roi_head,
        test_cfg=ConfigDict(rpn=None, rcnn={}),
        **_backbone_and_neck(config, 0, channels, start_level=0, add_extra_convs="on_input", num_outs=4),
    )


def _extractor(side: int, channels: int) -> dict[str, Any]:
    layer = dict(type="RoIAlign", output_size=side, sampling_ratio=0)
    return dict(type="SingleRoIExtractor", roi_layer=layer, out_channels=channels, featmap_strides=_STRIDES[:4])
