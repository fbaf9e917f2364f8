"""Name and axis order of every parameter in each PyTorch code base.

A format is an ordered table of rows. A row pairs parameters of this package with one key of a PyTorch state dict;
`{stage}`, `{next}` (stage + 1), `{block}`, `{level}` and `{layer}` stand for numbers. A row applies only to models that
have the row's parameters. Both directions use the same table, and `mapping.py` raises an error for any key that the
table does not cover.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np


@dataclass(frozen=True)
class Layout:
    """Order of an array's axes in PyTorch, as functions that convert to this order and back."""

    rank: int  # number of axes in PyTorch
    to_torch: Callable[[np.ndarray], np.ndarray]
    to_jax: Callable[[np.ndarray], np.ndarray]


VECTOR = Layout(1, lambda a: a, lambda a: a)
# [in, out] here, [out, in] in PyTorch
LINEAR = Layout(2, lambda a: a.T, lambda a: a.T)
# [in, out] here, [out, in, 1, 1] in PyTorch
POINTWISE = Layout(4, lambda a: a.T[:, :, None, None], lambda a: a[:, :, 0, 0].T)
# [k, k, in, out] here, [out, in, k, k] in PyTorch
CONV = Layout(4, lambda a: a.transpose(3, 2, 0, 1), lambda a: a.transpose(2, 3, 1, 0))


@dataclass(frozen=True)
class KeyRow:
    """One key of a PyTorch state dict, and the parameters that are joined along their last axis in its tensor."""

    params: tuple[str, ...]
    key: str
    layout: Layout
    postln: bool | None = None  # True: post-norm blocks only; False: pre-norm blocks only; None: both

    @property
    def pattern(self) -> re.Pattern[str]:
        """Regular expression of the key, with the numbers as named groups."""
        return _pattern(self.key)

    @property
    def param_pattern(self) -> re.Pattern[str]:
        """Regular expression of the first parameter, with the numbers as named groups."""
        return _pattern(self.params[0])


@cache
def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>\\d{1,4})", re.escape(template)))


def pair(param: str, key: str, layout: Layout, postln: bool | None = None) -> list[KeyRow]:
    """Returns the rows of a layer's `kernel` or `scale`, which is `weight` in PyTorch, and of its bias."""
    weight = "scale" if layout is VECTOR else "kernel"
    return [
        KeyRow((f"{param}/{weight}",), f"{key}.weight", layout, postln),
        KeyRow((f"{param}/bias",), f"{key}.bias", VECTOR, postln),
    ]


def _projection_in(key: str, layout: Layout) -> list[KeyRow]:
    """Returns the rows of query, context and gates, which PyTorch joins in this order in one layer."""
    parts = [f"{_BLOCK}/modulation/{name}" for name in ("query", "context", "gates")]
    return [
        KeyRow(tuple(f"{part}/kernel" for part in parts), f"{key}.weight", layout),
        KeyRow(tuple(f"{part}/bias" for part in parts), f"{key}.bias", VECTOR),
    ]


_BLOCK = "stages/{stage}/blocks"
_FOCAL = f"{_BLOCK}/modulation/focal_kernels/{{level}}/kernel"


def _microsoft() -> list[KeyRow]:
    block = "layers.{stage}.blocks.{block}"
    return [
        *pair("patch_embed/proj", "patch_embed.proj", CONV),
        *pair("patch_embed/norm", "patch_embed.norm", VECTOR),
        KeyRow((f"{_BLOCK}/gamma1",), f"{block}.gamma_1", VECTOR),
        KeyRow((f"{_BLOCK}/gamma2",), f"{block}.gamma_2", VECTOR),
        *pair(f"{_BLOCK}/norm1", f"{block}.norm1", VECTOR),
        *_projection_in(f"{block}.modulation.f", LINEAR),
        *pair(f"{_BLOCK}/modulation/modulator", f"{block}.modulation.h", POINTWISE),
        *pair(f"{_BLOCK}/modulation/proj", f"{block}.modulation.proj", LINEAR),
        KeyRow((_FOCAL,), f"{block}.modulation.focal_layers.{{level}}.0.weight", CONV),
        *pair(f"{_BLOCK}/modulation/norm", f"{block}.modulation.ln", VECTOR),
        *pair(f"{_BLOCK}/norm2", f"{block}.norm2", VECTOR),
        *pair(f"{_BLOCK}/mlp/fc1", f"{block}.mlp.fc1", LINEAR),
        *pair(f"{_BLOCK}/mlp/fc2", f"{block}.mlp.fc2", LINEAR),
        *pair("stages/{stage}/downsample/proj", "layers.{stage}.downsample.proj", CONV),
        *pair("stages/{stage}/downsample/norm", "layers.{stage}.downsample.norm", VECTOR),
        *pair("norm", "norm", VECTOR),
        *pair("head", "head", LINEAR),
    ]


def _timm() -> list[KeyRow]:
    block = "layers.{stage}.blocks.{block}"
    return [
        *pair("patch_embed/proj", "stem.proj", CONV),
        *pair("patch_embed/norm", "stem.norm", VECTOR),
        *pair("stages/{stage}/downsample/proj", "layers.{next}.downsample.proj", CONV),
        *pair("stages/{stage}/downsample/norm", "layers.{next}.downsample.norm", VECTOR),
        *pair(f"{_BLOCK}/norm1", f"{block}.norm1", VECTOR, postln=False),
        *_projection_in(f"{block}.modulation.f", POINTWISE),
        *pair(f"{_BLOCK}/modulation/modulator", f"{block}.modulation.h", POINTWISE),
        *pair(f"{_BLOCK}/modulation/proj", f"{block}.modulation.proj", POINTWISE),
        KeyRow((_FOCAL,), f"{block}.modulation.focal_layers.{{level}}.0.weight", CONV),
        *pair(f"{_BLOCK}/modulation/norm", f"{block}.modulation.norm", VECTOR),
        *pair(f"{_BLOCK}/norm1", f"{block}.norm1_post", VECTOR, postln=True),
        KeyRow((f"{_BLOCK}/gamma1",), f"{block}.ls1.gamma", VECTOR),
        *pair(f"{_BLOCK}/norm2", f"{block}.norm2", VECTOR, postln=False),
        *pair(f"{_BLOCK}/mlp/fc1", f"{block}.mlp.fc1", POINTWISE),
        *pair(f"{_BLOCK}/mlp/fc2", f"{block}.mlp.fc2", POINTWISE),
        *pair(f"{_BLOCK}/norm2", f"{block}.norm2_post", VECTOR, postln=True),
        KeyRow((f"{_BLOCK}/gamma2",), f"{block}.ls2.gamma", VECTOR),
        *pair("norm", "norm", VECTOR),
        *pair("head", "head.fc", LINEAR),
    ]


def _huggingface() -> list[KeyRow]:
    block = "focalnet.encoder.stages.{stage}.layers.{block}"
    downsample = "focalnet.encoder.stages.{stage}.downsample"
    return [
        *pair("patch_embed/proj", "focalnet.embeddings.patch_embeddings.projection", CONV),
        *pair("patch_embed/norm", "focalnet.embeddings.norm", VECTOR),
        KeyRow((f"{_BLOCK}/gamma1",), f"{block}.gamma_1", VECTOR),
        KeyRow((f"{_BLOCK}/gamma2",), f"{block}.gamma_2", VECTOR),
        *pair(f"{_BLOCK}/norm1", f"{block}.norm1", VECTOR),
        *_projection_in(f"{block}.modulation.projection_in", LINEAR),
        *pair(f"{_BLOCK}/modulation/modulator", f"{block}.modulation.projection_context", POINTWISE),
        *pair(f"{_BLOCK}/modulation/proj", f"{block}.modulation.projection_out", LINEAR),
        KeyRow((_FOCAL,), f"{block}.modulation.focal_layers.{{level}}.0.weight", CONV),
        *pair(f"{_BLOCK}/modulation/norm", f"{block}.modulation.layernorm", VECTOR),
        *pair(f"{_BLOCK}/norm2", f"{block}.norm2", VECTOR),
        *pair(f"{_BLOCK}/mlp/fc1", f"{block}.mlp.fc1", LINEAR),
        *pair(f"{_BLOCK}/mlp/fc2", f"{block}.mlp.fc2", LINEAR),
        *pair("stages/{stage}/downsample/proj", f"{downsample}.projection", CONV),
        *pair("stages/{stage}/downsample/norm", f"{downsample}.norm", VECTOR),
        *pair("norm", "focalnet.layernorm", VECTOR),
        *pair("head", "classifier", LINEAR),
    ]


TABLES: dict[str, list[KeyRow]] = {"microsoft": _microsoft(), "timm": _timm(), "huggingface": _huggingface()}
