"""Kernel that computes the gradients of all focal levels in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from focalnet_jax.ops.gelu import gelu_and_slope, quick_gelu_and_slope
from focalnet_jax.ops.mosaic.numbers import CHANNELS
from focalnet_jax.ops.mosaic.passes import (
    Numbers,
    Rows,
    Values,
    add_taps,
    call,
    clear,
    examples_first,
    means_spec,
    packed,
    rows_first,
    run_stages,
    spread_taps,
    taps_spec,
    zeros,
)
from focalnet_jax.ops.mosaic.plan import Tiling, backward_plan, computes_in_pairs


def focal_level_gradients(
    x: jax.Array,
    gates: jax.Array,
    kernels: Sequence[jax.Array],
    bias: jax.Array,
    kept: Sequence[jax.Array],
    cotangent: jax.Array,
    above: jax.Array,
    *,
    vmem: int,
    interpret: bool = False,
) -> tuple[jax.Array, tuple[jax.Array, ...], tuple[jax.Array, ...]]:
    """Returns the gradients of `focal_levels`, some of them in parts that the caller adds up along the leading axis.

    Args:
      x: argument of `focal_levels`.
      gates: argument of `focal_levels`.
      kernels: argument of `focal_levels`.
      bias: argument of `focal_levels`.
      kept: inputs of GELU that `focal_levels` returned, `[B, H, W, C]` for each level.
      cotangent: gradient of the gated sum, `[B, H, W, C]`.
      above: gradient of the last level's sum over H and W, `[B, C]` float32.
      vmem: bytes of fast memory.
      interpret: whether to interpret the kernel step by step, on any platform.

    Returns:
      The gradient of `x`, `[B, H, W, C]`; a tuple with parts of the gradient of each kernel, `[parts, k, k, 1, C]`, and
      of the bias, `[parts, 1, 1, 1, C]`; and a tuple with parts of the gradient of each level's gate,
      `[parts, B, H, W]`. Parts are float32.
    """
    given, sizes = len(x), [len(kernel) for kernel in kernels]
    pairs = computes_in_pairs(given, jnp.result_type(x, gates, *kernels, bias))
    plan = backward_plan(*x.shape[1:3], sizes, x.dtype.itemsize, vmem, pairs)
    x, gates, cotangent, *kept = (rows_first(each, plan.examples) for each in (x, gates, cotangent, *kept))
    height, width, examples, channels = x.shape
    above = jnp.pad(above, ((0, examples - given), (0, 0)))
    taps = plan.taps
    parts = jax.ShapeDtypeStruct((pl.cdiv(examples, plan.examples), taps, channels), jnp.float32)
    gate_parts = (1 if plan.whole else pl.cdiv(channels, CHANNELS), height, examples, plan.lanes)
    gradient, gathered, *of_gates = call(
        lambda *refs: _Program(plan, plan.numbers(interpret), channels, *refs).run(),
        plan,
        [
            (x, plan.spec(plan.lags[-1])),
            (packed(kernels, bias), taps_spec(plan)),
            (above, means_spec(plan)),
            *(
                pair
                for lag, one in zip(plan.lags[:-1], reversed(kept), strict=True)
                for pair in (
                    (one, plan.spec(lag)),
                    (cotangent, plan.spec(lag)),
                    (gates, plan.spec(lag, gates.shape[-1])),
                )
            ),
        ],
        [
            (jax.ShapeDtypeStruct(x.shape, x.dtype), plan.spec(plan.lags[-1])),
            (parts, pl.BlockSpec((1, taps, CHANNELS), lambda example, channel, step: (example, 0, channel))),
            *((jax.ShapeDtypeStruct(gate_parts, jnp.float32), plan.gate_spec(lag)) for lag in plan.lags[:-1]),
        ],
        name="focal_level_gradients",
        sums=(taps,),
        vmem=vmem,
        interpret=interpret,
    )
    each = jnp.split(gathered, plan.starts[1:], axis=1)
    return (
        examples_first(gradient, given),
        tuple(part.reshape(-1, *kernel.shape) for part, kernel in zip(each, (*kernels, bias), strict=True)),
        tuple(part.transpose(0, 2, 1, 3)[:, :given, :, :width] for part in reversed(of_gates)),
    )


class _Program:
    """A kernel instance, for some examples and 128 channels.

    Here, the gradient of a level is the gradient of the input of its GELU. Stage 0 computes the gradient of the last
    level, each further stage the gradient of the level before it, and the last stage the gradient of `x`.
    """

    def __init__(self, plan: Tiling, numbers: Numbers, channels: int, x: Any, taps: Any, above: Any, *others: Any):
        levels = len(plan.sizes)
        # Read here, because the body of an interpreted loop may not call `program_id`.
        self.left_channels = channels - pl.program_id(1) * CHANNELS if channels % CHANNELS else None
        self.plan, self.numbers, self.x, self.taps, self.above = plan, numbers, x, taps, above
        # For each level, counted from 0: GELU's input, the cotangent and the gates.
        self.kept, self.cotangents, self.gates = (others[i : 3 * levels : 3][::-1] for i in range(3))
        self.out, self.taps_out, *others = others[3 * levels :]
        self.to_gates = others[:levels][::-1]
        self.spread, self.gathered, *rings = others[levels:]
        # For each level, the gradient of the input of GELU.
        self.gradients = [Rows(ring, plan, numbers, size) for ring, size in zip(rings, plan.sizes, strict=True)]
        self.both = gelu_and_slope if x.dtype == jnp.float32 else quick_gelu_and_slope

    def run(self) -> None:
        """Runs all stages of one step."""

        @pl.when(pl.program_id(2) == 0)
        def _() -> None:
            spread_taps(self.numbers, self.taps, self.spread)
            self.gathered[...] = jnp.zeros_like(self.gathered)

        clear(self.plan, self.gradients)

        @pl.when(self.plan.whole & (pl.program_id(1) == 0))
        def _() -> None:
            for ref in self.to_gates:
                ref[...] = jnp.zeros_like(ref)

        levels = [partial(self.below, number) for number in reversed(range(1, len(self.gradients)))]
        computing = [partial(self.plan.tiles, compute) for compute in (self.last, *levels, self.to_input)]
        run_stages(self.plan, list(zip(computing, [*reversed(self.gradients), None], strict=True)))

        @pl.when(pl.program_id(2) == self.plan.steps - 1)
        def _() -> None:
            self.taps_out[0] = jnp.sum(self.gathered[...], axis=1)

    def arriving(self, level: int, at: Any) -> jax.Array:
        """Returns the gradient of a level's context through the gated sum at a position: cotangent times gate."""
        gate = self.gates[level][at].astype(jnp.float32)[:, level : level + 1]
        return self.cotangents[level][at].astype(jnp.float32) * gate

    def last(self, first: jax.Array, top: jax.Array, left: jax.Array) -> None:
        """Computes a tile of the gradients of the last level and of its gate."""
        level = len(self.plan.sizes) - 1
        contexts = zeros(self.plan)
        for i, j, at in self.plan.tile(top, left):
            contexts[i][j], slope = self.both(self.kept[level][at].astype(jnp.float32))
            gradient = (self.arriving(level, at) + self.above[...]) * slope
            self.gradients[level].put(first + at[0], at[1], gradient)
        self.put_gates(level, contexts, top, left)

    def below(self, number: int, first: jax.Array, top: jax.Array, left: jax.Array) -> None:
        """Computes a tile of the gradients of level `number - 1` and its gate; adds to kernel `number`'s gradient."""
        contexts, slopes = zeros(self.plan), zeros(self.plan)
        for i, j, at in self.plan.tile(top, left):
            context, slopes[i][j] = self.both(self.kept[number - 1][at].astype(jnp.float32))
            contexts[i][j] = self.plan.inside(first + at[0], context)
        sums = self.through(number, contexts, first + top, left)
        for i, j, at in self.plan.tile(top, left):
            arrived = sums[i][j] + self.arriving(number - 1, at)
            self.gradients[number - 1].put(first + at[0], at[1], arrived * slopes[i][j])
        self.put_gates(number - 1, contexts, top, left)

    def put_gates(self, level: int, contexts: Values, top: jax.Array, left: jax.Array) -> None:
        """Writes a tile of the gradient of a level's gate: the sum over channels of cotangent times context."""
        lane = lax.broadcasted_iota(jnp.int32, (self.plan.examples, CHANNELS), 1)
        begin = pl.multiple_of(lax.div(left, jnp.int32(CHANNELS)) * CHANNELS, CHANNELS)
        for i, row in enumerate(contexts):
            at = 0, top + i, slice(None), pl.ds(begin, CHANNELS)
            sums = self.to_gates[level][at]
            for j, context in enumerate(row):
                products = self.cotangents[level][top + i, left + j].astype(jnp.float32) * context
                if self.left_channels is not None:
                    products = jnp.where(lane < self.left_channels, products, 0.0)
                total = jnp.sum(products, axis=1, keepdims=True)
                # If the map is one block, the channels' parts are added up here, one after the other.
                sums = jnp.where(lane == left + j - begin, total + sums if self.plan.whole else total, sums)
            self.to_gates[level][at] = sums

    def to_input(self, first: jax.Array, top: jax.Array, left: jax.Array) -> None:
        """Computes a tile of the gradient of `x`; adds to the gradients of the first kernel and of the bias."""
        contexts, index = zeros(self.plan), self.plan.starts[-1]
        bias = self.numbers.unpack(self.spread[index])
        for i, j, at in self.plan.tile(top, left):
            contexts[i][j] = self.plan.inside(first + at[0], self.x[at].astype(jnp.float32) + bias)
        sums = self.through(0, contexts, first + top, left)
        for i, j, at in self.plan.tile(top, left):
            self.out[at] = sums[i][j].astype(self.out.dtype)
        inside = [self.plan.inside(first + at[0], sums[i][j]) for i, j, at in self.plan.tile(top, left)]
        self.gathered[index] += sum(inside[1:], inside[0])

    def through(self, number: int, contexts: Values, row: jax.Array, column: jax.Array) -> Values:
        """Returns a tile of the gradient of a level's input; adds to the gradient of the level's kernel."""
        sums, k, start = zeros(self.plan), self.plan.sizes[number], self.plan.starts[number]
        packed = [[self.numbers.pack(context) for context in row] for row in contexts]

        def add(row: int, i: int, registers: list[jax.Array]) -> None:
            mirrored = [start + (k - 1 - i) * k + (k - 1 - j) for j in range(k)]
            add_taps(self.numbers, sums[row], registers, [self.spread[index] for index in mirrored])
            for j, index in enumerate(mirrored):
                factors = list(zip(registers[j:], packed[row], strict=False))
                self.gathered[index] = self.numbers.add_sum(self.gathered[index], factors, k)

        self.gradients[number].sweep(row, column, add)
        return sums
