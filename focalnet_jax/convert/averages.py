"""Separates raw and averaged weights that mmcv's EMAHook stores in one state dict, as in mmsegmentation 0.x.

For example, the average of the tensor `backbone.norm0.weight` is the tensor `ema_backbone_norm0_weight`.
"""

from __future__ import annotations

import re

from focalnet_jax.convert.tensors import Tensors

_FLAT = re.compile(r"(?P<scope>(?:.*\.)?)ema_[^.]+")


def separate_average(tensors: Tensors, which: str | None) -> tuple[Tensors, str | None]:
    """Returns the tensors of a file without the averages, or with each average in place of the raw tensor.

    Args:
      tensors: all tensors of a file.
      which: selection among several weights in the file; "ema" to use the averages.

    Returns:
      The tensors, and the remaining selection among them: None if the averages are used, otherwise `which`.
    """
    scopes = {match["scope"] for match in map(_FLAT.fullmatch, tensors) if match}
    averages = {}
    for name in tensors:
        for scope in scopes:
            flat = f"{scope}ema_{name.removeprefix(scope).replace('.', '_')}"
            if name.startswith(scope) and flat in tensors.shapes and tensors.shapes[flat] == tensors.shapes[name]:
                averages[name] = flat
    if not averages:
        return tensors, which
    flats = set(averages.values())
    names = {name: name for name in tensors if name not in flats}
    if which == "ema":
        names |= averages
        note, which = f"took the {len(flats)} averaged tensors ema_* of mmcv's EMAHook, as requested", None
    else:
        note = f"the {len(flats)} averaged tensors ema_* of mmcv's EMAHook were left out: use --weights ema for them"
    return tensors.selected(names, note), which
