"""Plain Flax implementations of FocalNet and ConvNeXt, for comparison in benchmarks/tpu_cost.py.

They have unrolled blocks, XLA's convolutions, one projection for query, context and gates, and exact GELU, in bfloat16.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from focalnet_jax.model.variants import FocalNetConfig

_HALF = jnp.bfloat16


def _linear(inputs: int, outputs: int, rngs: nnx.Rngs) -> nnx.Linear:
    return nnx.Linear(inputs, outputs, dtype=_HALF, rngs=rngs)


def _norm(dim: int, rngs: nnx.Rngs) -> nnx.LayerNorm:
    return nnx.LayerNorm(dim, dtype=_HALF, rngs=rngs)


def _depthwise(dim: int, size: int, bias: bool, rngs: nnx.Rngs) -> nnx.Conv:
    return nnx.Conv(dim, dim, (size, size), feature_group_count=dim, use_bias=bias, dtype=_HALF, rngs=rngs)


def _scoped(name: str, function, *arguments):
    with jax.named_scope(name):
        return function(*arguments)


gelu = partial(jax.nn.gelu, approximate=False)


class FocalBlock(nnx.Module):
    """A FocalNet block. The config selects norms, LayerScale and the division of the modulator by L + 1."""

    def __init__(self, model: FocalNetConfig, stage: int, rngs: nnx.Rngs):
        dim, sizes = model.dims[stage], model.kernel_sizes(stage)
        self.norm1, self.norm2 = _norm(dim, rngs), _norm(dim, rngs)
        self.first = _linear(dim, 2 * dim + len(sizes) + 1, rngs)
        self.levels = nnx.List([_depthwise(dim, size, False, rngs) for size in sizes])
        self.modulator, self.proj = _linear(dim, dim, rngs), _linear(dim, dim, rngs)
        self.norm = _norm(dim, rngs) if model.use_postln_in_modulation else None
        hidden = int(dim * model.mlp_ratio)
        self.fc1, self.fc2 = _linear(dim, hidden, rngs), _linear(hidden, dim, rngs)
        scale = jnp.full((2, dim), model.layerscale_value)
        self.gammas = nnx.Param(scale) if model.use_layerscale else None
        self.dim, self.postln = dim, model.use_postln
        self.divisor = len(sizes) + 1 if model.normalize_modulator else 1

    def _aggregate(self, context: jax.Array, gates: jax.Array) -> jax.Array:
        total = jnp.zeros_like(context)
        for index, level in enumerate(self.levels):
            context = gelu(level(context))
            total += context * gates[..., index, None]
        total += gelu(context.mean((1, 2), keepdims=True)) * gates[..., -1, None]
        return total / self.divisor

    def _modulate(self, x: jax.Array) -> jax.Array:
        query, context, gates = jnp.split(_scoped("projections", self.first, x), [self.dim, 2 * self.dim], axis=-1)
        context = _scoped("aggregation", self._aggregate, context, gates)
        modulated = query * _scoped("projections", self.modulator, context)
        if self.norm is not None:
            modulated = _scoped("norm", self.norm, modulated)
        return _scoped("projections", self.proj, modulated)

    def _feed_forward(self, x: jax.Array) -> jax.Array:
        return _scoped("mlp", lambda h: self.fc2(gelu(self.fc1(h))), x)

    def __call__(self, x: jax.Array) -> jax.Array:
        for index, (norm, layers) in enumerate(((self.norm1, self._modulate), (self.norm2, self._feed_forward))):
            y = _scoped("norm", norm, layers(x)) if self.postln else layers(_scoped("norm", norm, x))
            x += y if self.gammas is None else y * self.gammas[index].astype(_HALF)
        return x


class ConvNextBlock(nnx.Module):
    """A ConvNeXt block: depthwise 7x7, LayerNorm, MLP, LayerScale (arXiv 2201.03545)."""

    def __init__(self, model: FocalNetConfig, stage: int, rngs: nnx.Rngs):
        dim = model.dims[stage]
        self.conv, self.norm = _depthwise(dim, 7, True, rngs), _norm(dim, rngs)
        self.fc1, self.fc2 = _linear(dim, 4 * dim, rngs), _linear(4 * dim, dim, rngs)
        self.gamma = nnx.Param(jnp.full((dim,), 1e-6))

    def __call__(self, x: jax.Array) -> jax.Array:
        mixed = _scoped("norm", self.norm, _scoped("aggregation", self.conv, x))
        return x + _scoped("mlp", lambda h: self.fc2(gelu(self.fc1(h))), mixed) * self.gamma[...].astype(_HALF)


class Net(nnx.Module):
    """A classifier with an embedding and blocks in each stage; `overlapping` stands for `use_conv_embed`."""

    def __init__(self, block, model: FocalNetConfig, depths: Sequence[int], overlapping: bool, rngs: nnx.Rngs):
        dims = model.dims
        windows = [(model.patch_size, model.patch_size, 0)] + [(2, 2, 0)] * (len(dims) - 1)
        if overlapping:
            windows = [(7, 4, 2)] + [(3, 2, 1)] * (len(dims) - 1)
        self.embeddings = nnx.List(
            [
                nnx.Conv(before, dim, (k, k), (stride, stride), padding=padding, dtype=_HALF, rngs=rngs)
                for before, dim, (k, stride, padding) in zip([3, *dims[:-1]], dims, windows, strict=True)
            ]
        )
        self.norms = nnx.List([_norm(dim, rngs) for dim in dims])
        self.stages = nnx.List(
            [nnx.List([block(model, stage, rngs=rngs) for _ in range(depth)]) for stage, depth in enumerate(depths)]
        )
        self.norm, self.head = _norm(dims[-1], rngs), nnx.Linear(dims[-1], model.num_classes, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        x = images.astype(_HALF)
        for embedding, norm, blocks in zip(self.embeddings, self.norms, self.stages, strict=True):
            x = _scoped("embedding", lambda x, norm=norm, embedding=embedding: norm(embedding(x)), x)
            for block in blocks:
                x = block(x)
        return self.head(self.norm(x).mean((1, 2), dtype=jnp.float32))
