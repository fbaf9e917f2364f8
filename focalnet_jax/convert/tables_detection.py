"""Name and axis order of every variable of the detectors with FocalNet in mmdetection, see `tables`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from focalnet_jax.convert.mapping import Entry, from_tensors, table_entries, to_tensors
from focalnet_jax.convert.tables import CONV, LINEAR, POINTWISE, TABLES, VECTOR, KeyRow, Layout, pair
from focalnet_jax.convert.tables_upernet import COUNTERS
from focalnet_jax.model import FocalNetConfig
from focalnet_jax.model.heads.roi_heads import SIDE
from focalnet_jax.model.heads.sparse_rcnn import BOX_LAYERS, CLASS_LAYERS
from focalnet_jax.parameters import named_leaves

# [1] here, a scalar in PyTorch
_SCALAR = Layout(0, lambda a: a.reshape(()), lambda a: a.reshape(1))
# the same array here and in PyTorch
_MATRIX = Layout(2, lambda a: a, lambda a: a)
# [2, 2, in, out] here, [in, out, 2, 2] in PyTorch, as for every transposed convolution
_TRANSPOSED = Layout(4, lambda a: a.transpose(2, 3, 0, 1), lambda a: a.transpose(2, 3, 0, 1))


def _flat_to_torch(a: np.ndarray) -> np.ndarray:
    return a.reshape(SIDE, SIDE, -1, a.shape[1]).transpose(3, 2, 0, 1).reshape(a.shape[1], -1)


def _flat_to_jax(a: np.ndarray) -> np.ndarray:
    return a.reshape(len(a), -1, SIDE, SIDE).transpose(2, 3, 1, 0).reshape(-1, len(a))


# Linear layer on the flattened feature map of a RoI: [7 * 7 * in, out] here, [out, in * 7 * 7] in PyTorch
_FLAT = Layout(2, _flat_to_torch, _flat_to_jax)


def _same(name: str, layout: Layout) -> list[KeyRow]:
    """Returns the rows of a layer whose name differs from that in PyTorch only in the separators."""
    return pair(name, name.replace("/", "."), layout)


def _backbone_and_neck() -> list[KeyRow]:
    return [
        *(
            replace(row, params=tuple(f"backbone/{name}" for name in row.params), key=f"backbone.{row.key}")
            for row in TABLES["microsoft"]
        ),
        *pair("backbone/output_norms/{stage}", "backbone.norm{stage}", VECTOR),
        *_same("neck/lateral_convs/{layer}/conv", POINTWISE),
        *_same("neck/fpn_convs/{layer}/conv", CONV),
    ]


def _atss() -> list[KeyRow]:
    towers = ("bbox_head/cls_convs/{layer}", "bbox_head/reg_convs/{layer}")
    return [
        *_backbone_and_neck(),
        *(row for tower in towers for row in (*_same(f"{tower}/conv", CONV), *_same(f"{tower}/gn", VECTOR))),
        *(row for name in ("cls", "reg", "centerness") for row in _same(f"bbox_head/atss_{name}", CONV)),
        KeyRow(("bbox_head/scales/{layer}/scale",), "bbox_head.scales.{layer}.scale", _SCALAR),
    ]


def _mask_rcnn(stage: str) -> list[KeyRow]:
    """Returns the table of Mask R-CNN or, if `stage` is "/{stage}" instead of "", of Cascade Mask R-CNN."""
    box, mask = f"roi_head/bbox_head{stage}", f"roi_head/mask_head{stage}"
    conv, norm = f"{box}/shared_convs/{{layer}}/conv", f"{box}/shared_convs/{{layer}}/bn"
    key = norm.replace("/", ".")
    return [
        *_backbone_and_neck(),
        *_same("rpn_head/rpn_conv", CONV),
        *_same("rpn_head/rpn_cls", POINTWISE),
        *_same("rpn_head/rpn_reg", POINTWISE),
        *_same(conv, CONV),
        *_same(norm, VECTOR),
        KeyRow((f"{norm}/mean",), f"{key}.running_mean", VECTOR),
        KeyRow((f"{norm}/var",), f"{key}.running_var", VECTOR),
        *_same(f"{box}/shared_fcs/0", _FLAT),
        *_same(f"{box}/shared_fcs/1", LINEAR),
        *_same(f"{box}/fc_cls", LINEAR),
        *_same(f"{box}/fc_reg", LINEAR),
        *_same(f"{mask}/convs/{{layer}}/conv", CONV),
        *_same(f"{mask}/upsample", _TRANSPOSED),
        *_same(f"{mask}/conv_logits", POINTWISE),
    ]


def _sparse_rcnn() -> list[KeyRow]:
    head, key = "roi_head/bbox_head/{stage}", "roi_head.bbox_head.{stage}"
    attention, dynamic = f"{head}/attention/attn", f"{head}/instance_interactive_conv"
    linears = [f"{attention}/out_proj", *(f"{dynamic}/{name}_layer" for name in ("dynamic", "fc"))]
    linears += [f"{head}/{name}" for name in ("fc_cls", "fc_reg")]
    norms = [f"{dynamic}/{name}" for name in ("norm_in", "norm_out", "fc_norm")]
    norms += [f"{head}/{name}_norm" for name in ("attention", "instance_interactive_conv", "ffn")]
    towers = []
    for name, layers in (("cls_fcs", CLASS_LAYERS), ("reg_fcs", BOX_LAYERS)):
        for layer in range(layers):  # followed by a norm and, in mmdetection, by a ReLU
            towers += pair(f"{head}/{name}/{2 * layer}", f"{key}.{name}.{3 * layer}", LINEAR)
            towers += pair(f"{head}/{name}/{2 * layer + 1}", f"{key}.{name}.{3 * layer + 1}", VECTOR)
    return [
        *_backbone_and_neck(),
        *(
            KeyRow((f"rpn_head/{name}",), f"rpn_head.{name}.weight", _MATRIX)
            for name in ("init_proposal_bboxes", "init_proposal_features")
        ),
        KeyRow((f"{attention}/in_proj/kernel",), f"{key}.attention.attn.in_proj_weight", LINEAR),
        KeyRow((f"{attention}/in_proj/bias",), f"{key}.attention.attn.in_proj_bias", VECTOR),
        *(row for name in linears for row in _same(name, LINEAR)),
        *(row for name in norms for row in _same(name, VECTOR)),
        *pair(f"{head}/ffn/layers/0", f"{key}.ffn.layers.0.0", LINEAR),
        *pair(f"{head}/ffn/layers/1", f"{key}.ffn.layers.1", LINEAR),
        *towers,
    ]


DETECTION_TABLES: dict[str, list[KeyRow]] = {
    "atss": _atss(),
    "mask_rcnn": _mask_rcnn(""),
    "cascade_mask_rcnn": _mask_rcnn("/{stage}"),
    "sparse_rcnn": _sparse_rcnn(),
}
"""Rows of each detector, by its name in `head.name`. Versions 2 and 3 of mmdetection have the same keys."""


def detection_entries(variables: Any, config: FocalNetConfig, detector: str) -> list[Entry]:
    """Returns mmdetection's tensors of a detector in table order. They contain every variable exactly once.

    Args:
      variables: variables of the model or any part of them, as arrays or shapes.
      config: configuration of the backbone.
      detector: a key of `DETECTION_TABLES`.
    """
    rows = DETECTION_TABLES[detector]
    return table_entries(rows, named_leaves(variables), postln=config.use_postln, format=f"mmdet {detector}")


def variables_to_tensors(variables: Any, config: FocalNetConfig, detector: str) -> Iterator[tuple[str, np.ndarray]]:
    """Yields mmdetection's tensors of a detector, one at a time, as (key, array). BatchNorm's counters are 0.

    Args:
      variables: parameters and running statistics in one tree, the pure dict of `nnx.state(model)`.
      config: configuration of the backbone.
      detector: a key of `DETECTION_TABLES`.
    """
    entries = detection_entries(variables, config, detector)
    for entry, (key, array) in zip(entries, to_tensors(entries, named_leaves(variables)), strict=True):
        yield key, array.reshape(entry.shape)  # np.ascontiguousarray makes vectors of scalars
        if key.endswith(".running_var"):
            yield key.removesuffix(".running_var") + COUNTERS, np.zeros((), np.int64)


def tensors_to_variables(tensors: Mapping[str, np.ndarray], like: Any, config: FocalNetConfig, detector: str) -> Any:
    """Returns the variables of a detector in float32 from mmdetection's tensors. Uses every tensor except counters.

    Args:
      tensors: state dict of mmdetection's detector.
      like: tree of the variables' shapes, as `variables_to_tensors` receives it.
      config: configuration of the backbone.
      detector: a key of `DETECTION_TABLES`.

    Raises:
      UserError: keys or shapes do not fit the model, or a value exceeds float32; the message names the tensors.
    """
    used = {key: tensors[key] for key in tensors if not key.endswith(COUNTERS)}
    return from_tensors(used, detection_entries(like, config, detector), like)
