"""Focal modulation, what FocalNet has in place of self-attention (paper section 3.1 and 3.2)."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from focalnet_jax.model.layers import dropout, layer_norm, linear, pointwise_conv, torch_uniform, without_bias
from focalnet_jax.model.precision import Precision
from focalnet_jax.ops.aggregation import aggregate_context, aggregate_levels
from focalnet_jax.placement import by_channel, by_example


class FocalKernel(nnx.Module):
    """The depthwise kernel of one focal level, `[k, k, 1, C]`."""

    def __init__(self, size: int, dim: int, *, rngs: nnx.Rngs):
        self.kernel = nnx.Param(torch_uniform(size * size)(rngs.params(), (size, size, 1, dim), jnp.float32))


class FocalModulation(nnx.Module):
    """y = proj(query(x) * modulator(sum over levels of gate_l * context_l)) (paper equation 4).

    The original computes query, context and gates by one projection of width 2C + L + 1; they are three here, because
    that width is a multiple of no vector unit's lanes.
    """

    def __init__(
        self,
        dim: int,
        kernel_sizes: Sequence[int],
        *,
        normalize_modulator: bool,
        postln: bool,
        drop_rate: float,
        aggregation: str,
        precision: Precision,
        rngs: nnx.Rngs,
    ):
        self.query = linear(dim, dim, precision, rngs)
        self.context = linear(dim, dim, precision, rngs)
        self.gates = linear(dim, len(kernel_sizes) + 1, precision, rngs)
        self.focal_kernels = nnx.List([FocalKernel(size, dim, rngs=rngs) for size in kernel_sizes])
        self.modulator = pointwise_conv(dim, dim, precision, rngs)
        self.norm = layer_norm(dim, precision, rngs) if postln else None
        self.proj = linear(dim, dim, precision, rngs)
        self.normalize_modulator = normalize_modulator
        self.drop_rate = drop_rate
        self.form = aggregation
        self.dtype = precision.dtype

    def __call__(self, x: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        """`[B, H, W, C]` to `[B, H, W, C]`; keys `[B]` make dropout active."""
        query, _, modulator = self.parts(x)
        with jax.named_scope("projections"):
            modulated = query * modulator
            if self.norm is not None:
                modulated = self.norm(modulated)
            return dropout(self.proj(modulated), self.drop_rate, keys)

    def parts(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Query `[B, H, W, C]`, gates `[B, H, W, L + 1]`, the global level's last, and modulator `[B, H, W, C]`."""
        with jax.named_scope("projections"):
            query = by_example(self.query(x), channels=True)
            context = by_example(without_bias(self.context, x), channels=True)
            gates = by_example(self.gates(x))
        context = self.aggregate(context, gates)
        with jax.named_scope("projections"):
            modulator = by_example(self.modulator(by_example(context, channels=True)), channels=True)
        return query, gates, modulator

    def aggregate(self, context: jax.Array, gates: jax.Array) -> jax.Array:
        """`[B, H, W, C]`, the sum of all levels of a context that has no bias yet; gates `[B, H, W, L + 1]`."""
        with jax.named_scope("aggregation"):
            return aggregate_context(
                context, gates, *self._kernels(), normalize=self.normalize_modulator, form=self.form
            )

    def aggregate_levels(self, context: jax.Array, gates: jax.Array) -> tuple[jax.Array, jax.Array]:
        """That sum without the global level, which is `[B, C]`, and not normalized."""
        with jax.named_scope("aggregation"):
            return aggregate_levels(context, gates, *self._kernels(), form=self.form)

    def _kernels(self) -> tuple[list[jax.Array], jax.Array]:
        kernels = [by_channel(focal.kernel[...].astype(self.dtype)) for focal in self.focal_kernels]
        return kernels, self.context.bias[...].astype(self.dtype)
