"""Name and axis order of every variable of UPerNet with FocalNet in mmsegmentation and transformers, see `tables`."""

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
"""Suffix of the keys of BatchNorm's counters, which PyTorch uses only for a cumulative average."""


def _rows(backbone: list[KeyRow], norm: str, batch_norm: str, classifier: str) -> list[KeyRow]:
    """Returns the table of a format.

    Args:
      backbone: rows of FocalNet.
      norm: key of the norm of a backbone's output.
      batch_norm: name of the BatchNorm of a convolution.
      classifier: name of the last layer of a head.
    """

    def block(param: str, key: str, layout: Layout) -> list[KeyRow]:
        normed = f"{key}.{batch_norm}"
        return [
            KeyRow((f"{param}/conv/kernel",), f"{key}.conv.weight", layout),
            *pair(f"{param}/bn", normed, VECTOR),
            KeyRow((f"{param}/bn/mean",), f"{normed}.running_mean", VECTOR),
            KeyRow((f"{param}/bn/var",), f"{normed}.running_var", VECTOR),
        ]

    return [
        *(
            replace(row, params=tuple(f"backbone/{name}" for name in row.params), key=f"backbone.{row.key}")
            for row in backbone
        ),
        *pair("backbone/output_norms/{stage}", f"backbone.{norm}", VECTOR),
        *block("decode_head/psp_modules/{layer}", "decode_head.psp_modules.{layer}.1", POINTWISE),
        *block("decode_head/bottleneck", "decode_head.bottleneck", CONV),
        *block("decode_head/lateral_convs/{layer}", "decode_head.lateral_convs.{layer}", POINTWISE),
        *block("decode_head/fpn_convs/{layer}", "decode_head.fpn_convs.{layer}", CONV),
        *block("decode_head/fpn_bottleneck", "decode_head.fpn_bottleneck", CONV),
        *pair("decode_head/conv_seg", f"decode_head.{classifier}", POINTWISE),
        *block("auxiliary_head/convs/{layer}", "auxiliary_head.convs.{layer}", CONV),
        *pair("auxiliary_head/conv_seg", f"auxiliary_head.{classifier}", POINTWISE),
    ]


# transformers' FocalNet has no norm for each output. The names of these norms are as in transformers' Swin backbone.
UPERNET_TABLES: dict[str, list[KeyRow]] = {
    "mmseg": _rows(TABLES["microsoft"], "norm{stage}", "bn", "conv_seg"),
    "huggingface": _rows(TABLES["huggingface"], "hidden_states_norms.stage{next}", "batch_norm", "classifier"),
}


def variables_to_tensors(variables: Any, config: FocalNetConfig, format: str) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the tensors of a UPerNet in a format, one at a time, as (key, array). BatchNorm's counters are 0.

    Args:
      variables: parameters and running statistics in one tree, the pure dict of `nnx.state(model)`.
      config: configuration of the backbone.
      format: a key of `UPERNET_TABLES`.
    """
    leaves = named_leaves(variables)
    rows = UPERNET_TABLES[format]
    for key, array in to_tensors(table_entries(rows, leaves, postln=config.use_postln, format=format), leaves):
        yield key, array
        if key.endswith(".running_var"):
            yield key.removesuffix(".running_var") + COUNTERS, np.zeros((), np.int64)


def tensors_to_variables(tensors: Mapping[str, np.ndarray], like: Any, config: FocalNetConfig, format: str) -> Any:
    """Returns the variables of a UPerNet in float32 from the tensors of a format. Uses every tensor except counters.

    Args:
      tensors: state dict of mmsegmentation's `EncoderDecoder` or transformers' `UperNetForSemanticSegmentation`.
      like: tree of the variables' shapes, as `variables_to_tensors` receives it.
      config: configuration of the backbone.
      format: a key of `UPERNET_TABLES`.

    Raises:
      UserError: keys or shapes do not fit the model, or a value exceeds float32; the message names the tensors.
    """
    rows = UPERNET_TABLES[format]
    entries = table_entries(rows, named_leaves(like), postln=config.use_postln, format=format)
    return from_tensors({key: tensors[key] for key in tensors if not key.endswith(COUNTERS)}, entries, like)
