"""Name and axis order of every variable of UPerNet with FocalNet in mmsegmentation, see `tables`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from focalnet_jax.convert.mapping import from_tensors, table_entries, to_tensors
from focalnet_jax.convert.tables import CONV, POINTWISE, TABLES, VECTOR, KeyRow, Layout, pair
from focalnet_jax.model import FocalNetConfig
from focalnet_jax.parameters import named_leaves

COUNTERS = ".num_batches_tracked"
"""End of the keys of BatchNorm's counters, which PyTorch needs only for a cumulative average."""


def _block(param: str, key: str, layout: Layout) -> list[KeyRow]:
    """Returns the rows of a convolution and its BatchNorm."""
    return [
        KeyRow((f"{param}/conv/kernel",), f"{key}.conv.weight", layout),
        *pair(f"{param}/bn", f"{key}.bn", VECTOR),
        KeyRow((f"{param}/bn/mean",), f"{key}.bn.running_mean", VECTOR),
        KeyRow((f"{param}/bn/var",), f"{key}.bn.running_var", VECTOR),
    ]


MMSEG: list[KeyRow] = [
    *(
        replace(row, params=tuple(f"backbone/{name}" for name in row.params), key=f"backbone.{row.key}")
        for row in TABLES["microsoft"]
    ),
    *pair("backbone/output_norms/{stage}", "backbone.norm{stage}", VECTOR),
    *_block("decode_head/psp_modules/{layer}", "decode_head.psp_modules.{layer}.1", POINTWISE),
    *_block("decode_head/bottleneck", "decode_head.bottleneck", CONV),
    *_block("decode_head/lateral_convs/{layer}", "decode_head.lateral_convs.{layer}", POINTWISE),
    *_block("decode_head/fpn_convs/{layer}", "decode_head.fpn_convs.{layer}", CONV),
    *_block("decode_head/fpn_bottleneck", "decode_head.fpn_bottleneck", CONV),
    *pair("decode_head/conv_seg", "decode_head.conv_seg", POINTWISE),
    *_block("auxiliary_head/convs/{layer}", "auxiliary_head.convs.{layer}", CONV),
    *pair("auxiliary_head/conv_seg", "auxiliary_head.conv_seg", POINTWISE),
]


def variables_to_mmseg(variables: Any, config: FocalNetConfig) -> Iterator[tuple[str, np.ndarray]]:
    """Yields mmsegmentation's tensors of a UPerNet, one at a time, as (key, array). Its counters are 0.

    Args:
      variables: parameters and running statistics in one tree, the pure dict of `nnx.state(model)`.
      config: configuration of the backbone.
    """
    leaves = named_leaves(variables)
    for key, array in to_tensors(table_entries(MMSEG, leaves, postln=config.use_postln, format="mmseg"), leaves):
        yield key, array
        if key.endswith(".running_var"):
            yield key.removesuffix(".running_var") + COUNTERS, np.zeros((), np.int64)


def mmseg_to_variables(tensors: Mapping[str, np.ndarray], like: Any, config: FocalNetConfig) -> Any:
    """Returns the variables of a UPerNet in float32 from mmsegmentation's tensors. Every tensor but counters is used.

    Args:
      tensors: state dict of mmsegmentation's `EncoderDecoder`.
      like: tree of the variables' shapes, as `variables_to_mmseg` receives it.
      config: configuration of the backbone.

    Raises:
      UserError: keys or shapes do not fit the model, or a value exceeds float32; the message names the tensors.
    """
    entries = table_entries(MMSEG, named_leaves(like), postln=config.use_postln, format="mmseg")
    return from_tensors({key: tensors[key] for key in tensors if not key.endswith(COUNTERS)}, entries, like)
