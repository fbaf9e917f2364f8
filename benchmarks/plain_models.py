"""FocalNet and ConvNeXt as one would write them down in Flax: what benchmarks/tpu_cost.py compares with.

Unrolled blocks, XLA's own convolutions, one projection for query, context and gates, exact GELU, bfloat16.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

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
    """Pre-norm, without LayerScale, as in the variants for ImageNet-1K."""

    def __init__(self, dim: int, sizes: Sequence[int], rngs: nnx.Rngs):
        self.norm1, self.norm2 = _norm(dim, rngs), _norm(dim, rngs)
        self.first = _linear(dim, 2 * dim + len(sizes) + 1, rngs)
        self.levels = nnx.List([_depthwise(dim, size, False, rngs) for size in sizes])
        self.modulator, self.proj = _linear(dim, dim, rngs), _linear(dim, dim, rngs)
        self.fc1, self.fc2 = _linear(dim, 4 * dim, rngs), _linear(4 * dim, dim, rngs)
        self.dim = dim

    def _aggregate(self, context: jax.Array, gates: jax.Array) -> jax.Array:
        total = jnp.zeros_like(context)
        for index, level in enumerate(self.levels):
            context = gelu(level(context))
            total += context * gates[..., index, None]
        return total + gelu(context.mean((1, 2), keepdims=True)) * gates[..., -1, None]

    def __call__(self, x: jax.Array) -> jax.Array:
        query, context, gates = jnp.split(
            _scoped("projections", self.first, _scoped("norm", self.norm1, x)), [self.dim, 2 * self.dim], axis=-1
        )
        context = _scoped("aggregation", self._aggregate, context, gates)
        x += _scoped("projections", lambda c: self.proj(query * self.modulator(c)), context)
        return x + _scoped("mlp", lambda h: self.fc2(gelu(self.fc1(h))), _scoped("norm", self.norm2, x))


class ConvNextBlock(nnx.Module):
    """Depthwise 7x7, LayerNorm, MLP, LayerScale (arXiv 2201.03545)."""

    def __init__(self, dim: int, rngs: nnx.Rngs):
        self.conv, self.norm = _depthwise(dim, 7, True, rngs), _norm(dim, rngs)
        self.fc1, self.fc2 = _linear(dim, 4 * dim, rngs), _linear(4 * dim, dim, rngs)
        self.gamma = nnx.Param(jnp.full((dim,), 1e-6))

    def __call__(self, x: jax.Array) -> jax.Array:
        mixed = _scoped("norm", self.norm, _scoped("aggregation", self.conv, x))
        return x + _scoped("mlp", lambda h: self.fc2(gelu(self.fc1(h))), mixed) * self.gamma[...].astype(_HALF)


class Net(nnx.Module):
    """Blocks in four stages, each after an embedding."""

    def __init__(self, block, dims: Sequence[int], depths: Sequence[int], classes: int, rngs: nnx.Rngs):
        inputs = [3, *dims[:-1]]
        strides = [4, 2, 2, 2]
        self.embeddings = nnx.List(
            [
                nnx.Conv(before, dim, (stride,) * 2, (stride,) * 2, padding="VALID", dtype=_HALF, rngs=rngs)
                for before, dim, stride in zip(inputs, dims, strides, strict=True)
            ]
        )
        self.norms = nnx.List([_norm(dim, rngs) for dim in dims])
        self.stages = nnx.List(
            [nnx.List([block(dim, rngs=rngs) for _ in range(depth)]) for dim, depth in zip(dims, depths, strict=True)]
        )
        self.norm, self.head = _norm(dims[-1], rngs), nnx.Linear(dims[-1], classes, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        x = images.astype(_HALF)
        for embedding, norm, blocks in zip(self.embeddings, self.norms, self.stages, strict=True):
            x = _scoped("embedding", lambda x, norm=norm, embedding=embedding: norm(embedding(x)), x)
            for block in blocks:
                x = block(x)
        return self.head(self.norm(x).mean((1, 2), dtype=jnp.float32))
