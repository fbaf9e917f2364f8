"""Focal modulation, which replaces self-attention (paper sections 3.1 and 3.2)."""

# ops/fused.py computes the same layers in kernels on TPUs, so a change of the modulation must be made in both files.

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from focalnet_jax.distributed.activations import by_channel, by_example
from focalnet_jax.model.layers import LayerNorm, linear, pointwise_conv, torch_uniform
from focalnet_jax.model.variants import FocalNetConfig
from focalnet_jax.ops.aggregation import aggregate_context, aggregate_levels
from focalnet_jax.ops.compute import Compute
from focalnet_jax.ops.dropout import dropout
from focalnet_jax.ops.product import without_bias


class FocalKernel(nnx.Module):
    """The depthwise kernel of one focal level, `[k, k, 1, C]`."""

    def __init__(self, size: int, dim: int, *, rngs: nnx.Rngs):
        self.kernel = nnx.Param(torch_uniform(size * size)(rngs.params(), (size, size, 1, dim), jnp.float32))


class FocalModulation(nnx.Module):
    """Focal modulation: y = proj(query(x) * modulator(sum over levels l of gate_l * context_l)) (paper equation 4).

    The original computes query, context and gates by one projection of width 2C + L + 1. Here they are three
    projections, because that width is not a multiple of any vector unit's lanes. The config's fields in `ABLATIONS`
    select the ablations of the paper's table 13, and pooling instead of depthwise convolutions (table 12).
    """

    def __init__(self, config: FocalNetConfig, stage: int, *, compute: Compute, rngs: nnx.Rngs):
        dim, sizes = config.dims[stage], config.kernel_sizes(stage)
        self.query = linear(dim, dim, compute, rngs)
        self.context = linear(dim, dim, compute, rngs)
        levels = len(sizes) + config.use_global_level
        self.gates = linear(dim, levels, compute, rngs) if config.use_gates else None
        learned = sizes if config.use_depthwise_conv else ()
        self.focal_kernels = nnx.List([FocalKernel(size, dim, rngs=rngs) for size in learned])
        self.modulator = pointwise_conv(dim, dim, compute, rngs)
        self.norm = LayerNorm(dim, compute, rngs) if config.use_postln_in_modulation else None
        self.proj = linear(dim, dim, compute, rngs)
        self.kernel_sizes = sizes
        self.global_level, self.multiplies = config.use_global_level, config.use_modulation
        self.normalize_modulator = config.normalize_modulator
        self.drop_rate = config.drop_rate
        self.compute = compute

    def __call__(self, x: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        """Maps `[B, H, W, C]` to `[B, H, W, C]`; PRNG keys `[B]` make dropout active."""
        query, _, modulator = self.parts(x)
        with jax.named_scope("projections"):
            modulated = query * modulator if self.multiplies else query + modulator
            if self.norm is not None:
                modulated = self.norm(modulated)
            return dropout(self.proj(modulated), self.drop_rate, keys)

    def parts(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns the query `[B, H, W, C]`, the gates `[B, H, W, L + 1]`, and the modulator `[B, H, W, C]`.

        The last gate belongs to the global level.
        """
        with jax.named_scope("projections"):
            query = by_example(self.query(x), channels=True)
            context = by_example(without_bias(self.context, x), channels=True)
            gates = by_example(self._gates(x))
        context = self.aggregate(context, gates)
        with jax.named_scope("projections"):
            modulator = by_example(self.modulator(by_example(context, channels=True)), channels=True)
        return query, gates, modulator

    def _gates(self, x: jax.Array) -> jax.Array:
        """Returns the gates `[B, H, W, L + 1]`.

        All gates are 1 without `use_gates`, and the last gate is 0 without `use_global_level`.
        """
        levels = len(self.kernel_sizes) + self.global_level
        gates = jnp.ones((*x.shape[:-1], levels), self.compute.dtype) if self.gates is None else self.gates(x)
        return gates if self.global_level else jnp.pad(gates, ((0, 0),) * 3 + ((0, 1),))

    def aggregate(self, context: jax.Array, gates: jax.Array) -> jax.Array:
        """Returns the gated sum of all levels, `[B, H, W, C]` (paper equations 5 and 6).

        Args:
          context: output of the projection `context`, `[B, H, W, C]`, before its bias is added.
          gates: gates `[B, H, W, L + 1]`.
        """
        with jax.named_scope("aggregation"):
            return aggregate_context(
                context,
                gates,
                *self._kernels(),
                normalize=self.normalize_modulator,
                implementation=self.compute.aggregation,
            )

    def aggregate_levels(self, context: jax.Array, gates: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the gated sum of all levels except the global level, `[B, H, W, C]`, and the global level, `[B, C]`.

        The sum is not divided by L + 1, and the global level is not multiplied by its gate.
        """
        with jax.named_scope("aggregation"):
            return aggregate_levels(context, gates, *self._kernels(), implementation=self.compute.aggregation)

    def _kernels(self) -> tuple[list[jax.Array], jax.Array]:
        """Returns the kernel of each level, and the bias of the context."""
        dtype = self.compute.dtype
        kernels = [focal.kernel[...].astype(dtype) for focal in self.focal_kernels]
        if not kernels:  # each level is the mean of its window
            dim = self.query.out_features
            kernels = [jnp.full((size, size, 1, dim), 1 / size**2, dtype) for size in self.kernel_sizes]
        return [by_channel(kernel) for kernel in kernels], self.context.bias[...].astype(dtype)
