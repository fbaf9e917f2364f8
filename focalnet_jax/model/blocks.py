"""The parts FocalNet is stacked from: patch embedding, MLP, focal block, stage."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from focalnet_jax.distributed.activations import allows_kernels, by_example, splits_weights
from focalnet_jax.model import fused
from focalnet_jax.model.layers import conv, drop_path, dropout, layer_norm, linear, split_keys, without_bias
from focalnet_jax.model.modulation import FocalModulation
from focalnet_jax.model.precision import Precision
from focalnet_jax.model.variants import FocalNetConfig
from focalnet_jax.ops import native
from focalnet_jax.ops.activation import activated_product
from focalnet_jax.ops.aggregation import LEVELS
from focalnet_jax.ops.gelu import activate
from focalnet_jax.ops.pointwise import suits

# What a block keeps for the backward pass; the rest is computed again. "auto" is the fastest of them where it runs.
REMAT_POLICIES = {
    "none": None,  # keep everything, but what the MLP's second layer is given
    "dots": jax.checkpoint_policies.save_from_both_policies(  # keep the projections' outputs and the focal levels
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
        jax.checkpoint_policies.save_only_these_names(LEVELS),
    ),
    "full": jax.checkpoint_policies.nothing_saveable,  # keep the block's input only
}


class PatchEmbed(nnx.Module):
    """A strided convolution and LayerNorm: the stem, and the downsample at the end of a stage.

    Plain: kernel = stride. Overlapped (`use_conv_embed`): k7 s4 p2 in the stem, k3 s2 p1 in a downsample. Sizes that
    the stride does not divide are floored, as in the original.
    """

    def __init__(
        self,
        inputs: int,
        dim: int,
        stride: int,
        *,
        overlapped: bool,
        stem: bool,
        pointwise: str,
        form: str,
        precision: Precision,
        rngs: nnx.Rngs,
    ):
        kernel, stride, padding = stride, stride, 0
        if overlapped:
            kernel, stride, padding = (7, 4, 2) if stem else (3, 2, 1)
        self.proj = conv(inputs, dim, kernel, stride, padding, precision, rngs, form)
        self.norm = layer_norm(dim, precision, rngs, form)
        self.pointwise, self.dtype = pointwise, precision.dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        """`[B, H, W, C]` to `[B, H', W', C']`."""
        with jax.named_scope("embedding"):
            if suits(self.pointwise, self.dtype) and allows_kernels(x):
                return by_example(fused.run_embedding(self, x))
            return self.norm(by_example(self.proj(x)))


class Mlp(nnx.Module):
    """Linear, exact GELU, Linear, with dropout after both."""

    def __init__(self, dim: int, ratio: float, drop_rate: float, form: str, *, precision: Precision, rngs: nnx.Rngs):
        self.fc1 = linear(dim, int(dim * ratio), precision, rngs, form)
        self.fc2 = linear(int(dim * ratio), dim, precision, rngs, form)
        self.drop_rate, self.form = drop_rate, form

    def __call__(self, x: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        """`[B, H, W, C]` to `[B, H, W, C]`; keys `[B]` make dropout active."""
        after = (None, None) if keys is None else split_keys(keys, 2)

        def second(hidden: jax.Array, keys: jax.Array | None) -> jax.Array:
            return self.fc2(dropout(activate(hidden), self.drop_rate, keys))

        with jax.named_scope("mlp"):
            if self._is_native(keys) and allows_kernels(x):
                hidden = by_example(without_bias(self.fc1, x), channels=True)
                layers = (self.fc1.bias, self.fc2.kernel, self.fc2.bias)
                before, kernel, bias = (param[...].astype(hidden.dtype) for param in layers)
                return activated_product(hidden, before, kernel, self.fc2.precision) + bias
            hidden = by_example(self.fc1(x), channels=True)
            # What fc2 is given, the widest of all maps, is sooner computed again than written and read. The keys are an
            # argument: closed over, in a scan, XLA without its fusion pass drops other numbers on the way back.
            return dropout(jax.checkpoint(second, prevent_cse=False)(hidden, after[0]), self.drop_rate, after[1])

    def _is_native(self, keys: jax.Array | None) -> bool:
        drops = keys is not None and self.drop_rate > 0
        return self.form == "native" and not drops and native.computes(self.fc1.dtype)


class FocalBlock(nnx.Module):
    """Focal modulation and MLP, each with a residual connection.

    Pre-norm: `x + dp(gamma1 * modulation(norm1(x)))`, then `x + dp(gamma2 * mlp(norm2(x)))`. Post-norm (`use_postln`):
    `x + dp(gamma1 * norm1(modulation(x)))`, then `x + dp(gamma2 * norm2(mlp(x)))`. dp is stochastic depth.
    """

    def __init__(self, config: FocalNetConfig, stage: int, *, precision: Precision, rngs: nnx.Rngs):
        dim = config.dims[stage]
        form = config.aggregation
        self.norm1 = layer_norm(dim, precision, rngs, form)
        self.modulation = FocalModulation(config, stage, precision=precision, rngs=rngs)
        self.norm2 = layer_norm(dim, precision, rngs, form)
        self.mlp = Mlp(dim, config.mlp_ratio, config.drop_rate, form, precision=precision, rngs=rngs)
        scale = jnp.full((dim,), config.layerscale_value, jnp.float32)
        self.gamma1 = nnx.Param(scale) if config.use_layerscale else None
        self.gamma2 = nnx.Param(scale) if config.use_layerscale else None
        self.postln = config.use_postln
        self.pointwise, self.dtype = config.pointwise, precision.dtype

    def __call__(self, x: jax.Array, drop_path_rate: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        """`[B, H, W, C]` to `[B, H, W, C]`; keys `[B]` make stochastic depth and dropout active."""
        parts = (None,) * 4 if keys is None else split_keys(keys, 4)
        if self.in_kernels(keys) and allows_kernels(x):
            ones = jnp.ones((len(x), 1, 1, 1), jnp.float32)
            factors = [drop_path(ones, drop_path_rate, parts[branch])[..., 0, 0] for branch in (1, 3)]  # [B, 1] each
            return by_example(fused.run_block(self, x, by_example(jnp.concatenate(factors, axis=1))))
        x = by_example(x + drop_path(self._modulate(x, parts[0]), drop_path_rate, parts[1]))
        return by_example(x + drop_path(self._transform(x, parts[2]), drop_path_rate, parts[3]))

    def in_kernels(self, keys: jax.Array | None) -> bool:
        """Whether its layers are computed in kernels of our own, see `model.fused`."""
        dropout = keys is not None and self.mlp.drop_rate > 0
        return not dropout and suits(self.pointwise, self.dtype) and fused.fits(self)

    def modulated(self, x: jax.Array) -> jax.Array:
        """What its modulation is given, of its input."""
        return x if self.postln else _normalized(self.norm1, x)

    def _modulate(self, x: jax.Array, keys: jax.Array | None) -> jax.Array:
        branch = self.modulation(self.modulated(x), keys)
        return _scaled(_normalized(self.norm1, branch) if self.postln else branch, self.gamma1)

    def _transform(self, x: jax.Array, keys: jax.Array | None) -> jax.Array:
        if self.postln:
            return _scaled(_normalized(self.norm2, self.mlp(x, keys)), self.gamma2)
        return _scaled(self.mlp(_normalized(self.norm2, x), keys), self.gamma2)


def _normalized(norm: nnx.LayerNorm, x: jax.Array) -> jax.Array:
    with jax.named_scope("norm"):
        return norm(x)


def _scaled(x: jax.Array, gamma: nnx.Param | None) -> jax.Array:
    return x if gamma is None else x * gamma[...].astype(x.dtype)


BlockProbe = Callable[[FocalBlock, jax.Array], Any]


class Stage(nnx.Module):
    """D focal blocks at one resolution, and the downsample after them (none in the last stage).

    The blocks' parameters are stacked with a leading axis D. They run as one compiled block in a scan or unrolled, see
    `choose_scan`; both give the same numbers.
    """

    def __init__(self, config: FocalNetConfig, stage: int, *, precision: Precision, rngs: nnx.Rngs):
        self.depth = config.depths[stage]

        @nnx.split_rngs(splits=self.depth)
        @nnx.vmap
        def stacked(rngs: nnx.Rngs) -> FocalBlock:
            return FocalBlock(config, stage, precision=precision, rngs=rngs)

        self.blocks = stacked(rngs)
        self.downsample = (
            PatchEmbed(
                config.dims[stage],
                config.dims[stage + 1],
                2,
                overlapped=config.use_conv_embed,
                stem=False,
                pointwise=config.pointwise,
                form=config.aggregation,
                precision=precision,
                rngs=rngs,
            )
            if stage + 1 < len(config.depths)
            else None
        )
        self.scan, self.remat, self.aggregation = config.scan_blocks, config.remat, config.aggregation

    def __call__(
        self, x: jax.Array, drop_path_rates: jax.Array, keys: jax.Array | None = None, look: BlockProbe | None = None
    ) -> tuple[jax.Array, Any]:
        """`[B, H, W, C]` to `[B, H, W, C]`, without the downsample; `drop_path_rates` is `[D]`, keys are `[B]`.

        And what `look` returns of each block and its input, a tree of arrays `[D, ...]`.
        """
        graph, params = nnx.split(self.blocks)
        each = None if keys is None else split_keys(keys, self.depth)  # [D, B]

        def block(x, inputs):
            params, rate, keys = inputs
            one = nnx.merge(graph, params)
            return one(x, rate, keys), None if look is None else look(one, x)

        scan = self.choose_scan(keys)
        if (remat := self.choose_remat(keys)) != "none":
            # Inside a scan XLA cannot merge the recomputation with the forward pass, so nothing must prevent it.
            block = jax.checkpoint(block, policy=REMAT_POLICIES[remat], prevent_cse=not scan)
        if scan:
            return jax.lax.scan(block, x, (params, drop_path_rates, each))
        seen = []
        for index, one in enumerate(_unstacked(params, self.depth)):
            x, looked = block(x, (one, drop_path_rates[index], None if each is None else each[index]))
            seen.append(looked)
        return x, jax.tree.map(lambda *leaves: jnp.stack(leaves), *seen)

    def choose_scan(self, keys: jax.Array | None = None) -> bool:
        """Whether the blocks run in a scan.

        By default those that XLA computes alone do, for they take long to compile, and those whose weights are gathered
        from other devices, for a loop holds few of them at a time. Unrolled, our own kernels write no arrays of a loop
        and read none: a step takes a fifth to a quarter less time on TPUs and GPUs (docs/performance.md).
        """
        if self.depth == 1 or self.scan is not None:
            return self.depth > 1 and bool(self.scan)
        ours = self.aggregation in ("native", "triton") or self._in_kernels(keys)
        return splits_weights() or not ours

    def choose_remat(self, keys: jax.Array | None = None) -> str:
        """The policy to compute with.

        With "auto" that is "full" where kernels are computed in a loop: they take less time to do it all again than
        to write what they kept into the loop's arrays and read it there (docs/performance.md).
        """
        if self.remat != "auto":
            return self.remat
        return "full" if self.choose_scan(keys) and self._in_kernels(keys) else "none"

    def _in_kernels(self, keys: jax.Array | None) -> bool:
        graph, params = nnx.split(self.blocks)
        one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), params)
        return nnx.merge(graph, one).in_kernels(keys)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _unstacked(tree: Any, depth: int) -> list[Any]:
    """Of each block its own, of arrays `[D, ...]`.

    The gradients are stacked once. By autodiff each would be added to zeros for all blocks.
    """
    return [jax.tree.map(lambda leaf, index=index: leaf[index], tree) for index in range(depth)]


def _stacked(depth: int, _: None, gradients: list[Any]) -> tuple[Any]:
    return (jax.tree.map(lambda *each: jnp.stack(each), *gradients),)


_unstacked.defvjp(lambda tree, depth: (_unstacked(tree, depth), None), _stacked)
