"""The layers of FocalNet: patch embedding, MLP, focal block, stage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from focalnet_jax.distributed.activations import by_example
from focalnet_jax.model.layers import LayerNorm, conv, linear
from focalnet_jax.model.modulation import FocalModulation
from focalnet_jax.model.variants import FocalNetConfig
from focalnet_jax.ops.compute import Compute
from focalnet_jax.ops.dropout import drop_path, split_keys
from focalnet_jax.ops.embedding import embed, pad_to_multiple
from focalnet_jax.ops.fused import computes, focal_block
from focalnet_jax.ops.mlp import mlp
from focalnet_jax.ops.stack import Schedule, choose_schedule, run_blocks


class PatchEmbed(nnx.Module):
    """A strided convolution and LayerNorm: the stem, and the downsample at the end of a stage.

    Windows that do not fit completely in the padded map are dropped, as in the original classifier. With `pad`, the map
    is first padded with zeros to the right and below, to a multiple of the stride, as in the original backbone of
    detectors and segmenters.
    """

    def __init__(
        self,
        inputs: int,
        dim: int,
        *,
        kernel: int,
        stride: int,
        padding: int,
        pad: bool = False,
        compute: Compute,
        rngs: nnx.Rngs,
    ):
        self.proj = conv(inputs, dim, kernel, stride, padding, compute, rngs)
        self.norm = LayerNorm(dim, compute, rngs)
        self.multiple = stride if pad else 1
        self.compute = compute

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[B, H, W, C]` to `[B, H', W', C']`."""
        with jax.named_scope("embedding"):
            return embed(self.proj, self.norm, pad_to_multiple(x, self.multiple), self.compute)


class Mlp(nnx.Module):
    """Linear, exact GELU, dropout, Linear, dropout."""

    def __init__(self, dim: int, ratio: float, drop_rate: float, *, compute: Compute, rngs: nnx.Rngs):
        self.fc1 = linear(dim, int(dim * ratio), compute, rngs)
        self.fc2 = linear(int(dim * ratio), dim, compute, rngs)
        self.drop_rate, self.compute = drop_rate, compute

    def __call__(self, x: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        """Maps `[B, H, W, C]` to `[B, H, W, C]`; PRNG keys `[B]` make dropout active."""
        with jax.named_scope("mlp"):
            return mlp(self.fc1, self.fc2, x, self.drop_rate, keys, self.compute)


class FocalBlock(nnx.Module):
    """Focal modulation and MLP, each with a residual connection.

    Pre-norm: `x + dp(gamma1 * modulation(norm1(x)))`, then `x + dp(gamma2 * mlp(norm2(x)))`. Post-norm (`use_postln`):
    `x + dp(gamma1 * norm1(modulation(x)))`, then `x + dp(gamma2 * norm2(mlp(x)))`. dp is stochastic depth.
    """

    def __init__(self, config: FocalNetConfig, stage: int, *, compute: Compute, rngs: nnx.Rngs):
        dim = config.dims[stage]
        self.norm1 = LayerNorm(dim, compute, rngs)
        self.modulation = FocalModulation(config, stage, compute=compute, rngs=rngs)
        self.norm2 = LayerNorm(dim, compute, rngs)
        self.mlp = Mlp(dim, config.mlp_ratio, config.drop_rate, compute=compute, rngs=rngs)
        scale = jnp.full((dim,), config.layerscale_value, jnp.float32)
        self.gamma1 = nnx.Param(scale) if config.use_layerscale else None
        self.gamma2 = nnx.Param(scale) if config.use_layerscale else None
        self.postln = config.use_postln
        self.compute = compute

    def __call__(self, x: jax.Array, drop_path_rate: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        """Maps `[B, H, W, C]` to `[B, H, W, C]`; PRNG keys `[B]` make stochastic depth and dropout active."""
        parts = (None,) * 4 if keys is None else split_keys(keys, 4)
        return focal_block(self, x, drop_path_rate, parts)

    def layer_by_layer(self, x: jax.Array, rate: jax.Array, keys: Sequence[jax.Array | None]) -> jax.Array:
        """Maps `[B, H, W, C]` to `[B, H, W, C]` by the equations above, one layer after the other.

        Args:
          x: input of the block.
          rate: rate of stochastic depth, a scalar.
          keys: four entries, each PRNG keys `[B]` or None, in the order of `ops.fused.focal_block`.
        """
        x = by_example(x + drop_path(self._modulate(x, keys[0]), rate, keys[1]))
        return by_example(x + drop_path(self._transform(x, keys[2]), rate, keys[3]))

    def modulated(self, x: jax.Array) -> jax.Array:
        """Returns the input of the modulation, `[B, H, W, C]`, from the input of the block, `[B, H, W, C]`."""
        return x if self.postln else _normalized(self.norm1, x)

    def _modulate(self, x: jax.Array, keys: jax.Array | None) -> jax.Array:
        branch = self.modulation(self.modulated(x), keys)
        return _scaled(_normalized(self.norm1, branch) if self.postln else branch, self.gamma1)

    def _transform(self, x: jax.Array, keys: jax.Array | None) -> jax.Array:
        if self.postln:
            return _scaled(_normalized(self.norm2, self.mlp(x, keys)), self.gamma2)
        return _scaled(self.mlp(_normalized(self.norm2, x), keys), self.gamma2)


def _normalized(norm: LayerNorm, x: jax.Array) -> jax.Array:
    with jax.named_scope("norm"):
        return norm(x)


def _scaled(x: jax.Array, gamma: nnx.Param | None) -> jax.Array:
    return x if gamma is None else x * gamma[...].astype(x.dtype)


BlockProbe = Callable[[FocalBlock, jax.Array], Any]
"""Function that receives each block and its input `[B, h, w, C]`, and returns a tree of arrays."""


class Stage(nnx.Module):
    """D focal blocks at one resolution, followed by a downsample (except in the last stage).

    The parameters of the blocks are stacked along a leading axis D.
    """

    def __init__(self, config: FocalNetConfig, stage: int, *, pad: bool = False, compute: Compute, rngs: nnx.Rngs):
        self.depth = config.depths[stage]

        @nnx.split_rngs(splits=self.depth)
        @nnx.vmap
        def stacked(rngs: nnx.Rngs) -> FocalBlock:
            return FocalBlock(config, stage, compute=compute, rngs=rngs)

        self.blocks = stacked(rngs)
        kernel, padding = (3, 1) if config.use_conv_embed else (2, 0)
        self.downsample = (
            PatchEmbed(
                config.dims[stage],
                config.dims[stage + 1],
                kernel=kernel,
                stride=2,
                padding=padding,
                pad=pad,
                compute=compute,
                rngs=rngs,
            )
            if stage + 1 < len(config.depths)
            else None
        )
        self.scan, self.remat, self.compute = config.scan_blocks, config.remat, compute

    def __call__(
        self, x: jax.Array, drop_path_rates: jax.Array, keys: jax.Array | None = None, probe: BlockProbe | None = None
    ) -> tuple[jax.Array, Any]:
        """Returns the output of the last block, `[B, H, W, C]`, and the outputs of the probe, a tree of `[D, ...]`.

        Args:
          x: input of the first block, `[B, H, W, C]`.
          drop_path_rates: rate of stochastic depth of each block, `[D]`.
          keys: PRNG keys `[B]`, or None for no stochastic depth and dropout.
          probe: function that receives each block and its input, or None.
        """
        graph, params = nnx.split(self.blocks)

        def run(x, inputs):
            params, rate, keys = inputs
            block = nnx.merge(graph, params)
            return block(x, rate, keys), None if probe is None else probe(block, x)

        each = None if keys is None else split_keys(keys, self.depth)  # [D, B]
        return run_blocks(run, x, params, (drop_path_rates, each), self.depth, self.schedule(keys))

    def schedule(self, keys: jax.Array | None = None) -> Schedule:
        """Returns whether the blocks are scanned or unrolled, and their rematerialization policy.

        Args:
          keys: PRNG keys `[B]`, or None for no stochastic depth and dropout.
        """
        graph, params = nnx.split(self.blocks)
        one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), params)
        fused = computes(nnx.merge(graph, one), drops=keys is not None)
        return choose_schedule(self.depth, self.scan, self.remat, self.compute, fused=fused)
