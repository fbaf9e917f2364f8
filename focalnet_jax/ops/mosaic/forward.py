"""Kernel that computes all focal levels in one pass over the context."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from focalnet_jax.ops.gelu import gelu, quick_gelu
from focalnet_jax.ops.mosaic.numbers import CHANNELS
from focalnet_jax.ops.mosaic.passes import (
    Numbers,
    Rows,
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
from focalnet_jax.ops.mosaic.plan import Tiling, computes_in_pairs, forward_plan


def focal_levels(
    x: jax.Array,
    gates: jax.Array,
    kernels: Sequence[jax.Array],
    bias: jax.Array,
    *,
    keep: bool,
    vmem: int,
    interpret: bool = False,
) -> tuple[jax.Array, jax.Array, tuple[jax.Array, ...]]:
    """Returns the gated sum of all levels except the global level.

    Args:
      x: context `[B, H, W, C]`; level 0 is the context plus the bias.
      gates: gates `[B, H, W, n]`; the gate of level l has index l - 1.
      kernels: kernel `[k, k, 1, C]` of each level.
      bias: bias `[1, 1, 1, C]`.
      keep: whether to return the inputs of GELU, which the gradients need.
      vmem: bytes of fast memory.
      interpret: whether to interpret the kernel step by step, on any platform.

    Returns:
      The sum of the contexts of the levels, each multiplied by its gate, `[B, H, W, C]`; the sum of the last level over
      H and W, `[B, C]` float32; and a tuple with the input of GELU of each level, `[B, H, W, C]`, which is empty unless
      `keep` is set.
    """
    count, sizes = len(x), [len(kernel) for kernel in kernels]
    pairs = computes_in_pairs(count, jnp.result_type(x, gates, *kernels, bias))
    plan = forward_plan(*x.shape[1:3], sizes, x.dtype.itemsize, vmem, pairs)
    x, gates = (rows_first(each, plan.examples) for each in (x, gates))
    *_, examples, channels = x.shape
    like = jax.ShapeDtypeStruct(x.shape, x.dtype)
    total, last_sum, *kept = call(
        lambda *refs: _Program(plan, plan.numbers(interpret), keep, *refs).run(),
        plan,
        [
            (x, plan.spec(0)),
            (gates, plan.spec(plan.lags[-1], gates.shape[-1])),
            (packed(kernels, bias), taps_spec(plan)),
        ],
        [
            (like, plan.spec(plan.lags[-1])),
            (jax.ShapeDtypeStruct((examples, channels), jnp.float32), means_spec(plan)),
            *((like, plan.spec(lag)) for lag in plan.lags[1:] if keep),
        ],
        name="focal_levels",
        sums=(),
        vmem=vmem,
        interpret=interpret,
    )
    return examples_first(total, count), last_sum[:count], tuple(examples_first(each, count) for each in kept)


class _Program:
    """A kernel instance, for some examples and 128 channels. Stage 0 reads the context; stage l computes level l."""

    def __init__(
        self, plan: Tiling, numbers: Numbers, keep: bool, x: Any, gates: Any, taps: Any, total: Any, *others: Any
    ):
        levels = len(plan.sizes)
        self.plan, self.numbers, self.x, self.gates, self.taps, self.total = plan, numbers, x, gates, taps, total
        self.last_sum, *others = others
        self.kept = others[:levels] if keep else (None,) * levels
        self.spread, self.lost, *rings = others[levels * keep :]
        self.inputs = [Rows(ring, plan, numbers, size) for ring, size in zip(rings, plan.sizes, strict=True)]
        self.activate = gelu if x.dtype == jnp.float32 else quick_gelu

    def run(self) -> None:
        """Runs all stages of one step."""

        @pl.when(pl.program_id(2) == 0)
        def _() -> None:
            spread_taps(self.numbers, self.taps, self.spread)
            self.last_sum[...] = self.lost[...] = jnp.zeros_like(self.last_sum)

        clear(self.plan, self.inputs)

        levels = [partial(self.level, number) for number in range(len(self.inputs) - 1)]
        computing = [partial(self.plan.tiles, compute) for compute in (*levels, self.last_level)]
        run_stages(self.plan, list(zip([self.read, *computing], [*self.inputs, None], strict=True)))

    def read(self, first: jax.Array) -> None:
        """Reads the block whose first row is `first`, and adds the bias."""
        bias = self.numbers.unpack(self.spread[self.plan.starts[-1]])

        def copy(row: jax.Array, _: None) -> None:
            for column in range(self.plan.width):
                self.inputs[0].put(first + row, column, self.x[row, column].astype(jnp.float32) + bias)

        lax.fori_loop(0, self.plan.rows, copy, None)

    def level(self, number: int, first: jax.Array, top: jax.Array, left: jax.Array) -> None:
        """Computes a tile of level `number`, counted from 0, and stores it as input of the next level."""
        for (row, column), context in self.contexts(number, first, top, left):
            self.inputs[number + 1].put(first + row, column, context)

    def last_level(self, first: jax.Array, top: jax.Array, left: jax.Array) -> None:
        """Computes a tile of the last level, and of the sum over all levels."""
        levels = len(self.plan.sizes)
        last_sum = jnp.zeros((self.plan.examples, CHANNELS), jnp.float32)
        for at, context in self.contexts(levels - 1, first, top, left):
            row, column = first + at[0], at[1]
            last_sum += self.plan.inside(row, context)
            gate = self.gates[at].astype(jnp.float32)
            total = context * gate[:, levels - 1 : levels]
            for below in range(1, levels):
                total += self.inputs[below].get(row, column) * gate[:, below - 1 : below]
            self.total[at] = total.astype(self.total.dtype)
        self.add_to_last_sum(last_sum)

    def add_to_last_sum(self, tile: jax.Array) -> None:
        """Adds the sum over a tile to the sum over all tiles, by Kahan's summation, because there may be thousands."""
        before, missing = self.last_sum[...], tile - self.lost[...]
        self.last_sum[...] = before + missing
        self.lost[...] = (self.last_sum[...] - before) - missing

    def contexts(
        self, number: int, first: jax.Array, top: jax.Array, left: jax.Array
    ) -> Iterator[tuple[tuple[jax.Array, jax.Array], jax.Array]]:
        """Yields for each position of a tile its row and column in the block, and the context of level `number` there.

        Also writes the inputs of GELU if they are kept.
        """
        sums, k, start = zeros(self.plan), self.plan.sizes[number], self.plan.starts[number]

        def add(row: int, i: int, registers: list[jax.Array]) -> None:
            add_taps(self.numbers, sums[row], registers, [self.spread[start + i * k + j] for j in range(k)])

        self.inputs[number].sweep(first + top, left, add)
        for i, j, at in self.plan.tile(top, left):
            if self.kept[number] is not None:
                self.kept[number][at] = sums[i][j].astype(self.x.dtype)
            yield at, self.activate(sums[i][j])
