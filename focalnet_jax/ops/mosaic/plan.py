"""Order of computation of a map: blocks of rows that fit fast memory, and in them tiles whose sums fit registers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from focalnet_jax.ops.mosaic.numbers import CHANNELS, Floats, Pairs

_REGISTERS = 16  # for the sums of a tile; the same number holds their addends
_REGISTER_BYTES = 4096
_LARGEST_KERNEL = 9
_MOST_ROWS = 16  # of a block that is not the whole map
_MIB = 2**20
# Fast memory in bytes, by JAX's name of the chip.
_VMEM = {"TPU v5 lite": 128 * _MIB, "TPU v5": 64 * _MIB, "TPU v6 lite": 128 * _MIB}
_LEAST_VMEM = 15 * _MIB  # of a v4's 16
_CORES = {"TPU v4": 2, "TPU v5": 2}  # per JAX device; one on all other chips
_COMPUTE_IN_PAIRS = ("TPU v6 lite",)


def fast_memory(share: float = 0.5) -> int:
    """Returns the bytes of fast memory that a program may use, on the chips in use or those it is compiled for.

    It is a share of the memory, which leaves room for XLA's own data; on chips with little memory it is nearly all.
    """
    return max(int(share * _VMEM.get(_chip(), 0)), _LEAST_VMEM)


def cores() -> int:
    """Returns the number of cores per device, over which the parallel axis of a kernel's grid is split."""
    return _CORES.get(_chip(), 1)


def computes_in_pairs(examples: int, dtype: jnp.dtype) -> bool:
    """Returns whether the chip is faster with 16 examples in bfloat16 pairs, and they need no more padding."""
    fills_more_up = -examples % Pairs.examples >= Floats.examples
    return dtype == jnp.bfloat16 and not fills_more_up and _chip() in _COMPUTE_IN_PAIRS


def _chip() -> str:
    mesh = jax.sharding.get_abstract_mesh()
    named = None if mesh.empty or mesh.abstract_device is None else mesh.abstract_device.device_kind
    return named or jax.devices()[0].device_kind


def supports(shape: Sequence[int], kernel_sizes: Sequence[int], itemsize: int, vmem: int) -> bool:
    """Returns whether the kernels compute contexts `[B, H, W, C]` of this item size with these kernel sizes.

    XLA computes the others: kernels above 9, and maps whose rows do not fit fast memory.
    """
    known = bool(kernel_sizes) and all(size % 2 == 1 and size <= _LARGEST_KERNEL for size in kernel_sizes)
    plans = (forward_plan, backward_plan)
    return known and all(plan(*shape[1:3], kernel_sizes, itemsize, vmem) is not None for plan in plans)


@dataclass(frozen=True)
class Tiling:
    """The blocks of a map, the rows of each level in fast memory, and the tiles of a block."""

    height: int
    width: int
    sizes: tuple[int, ...]  # of the levels' kernels
    rows: int  # of a block
    back: bool  # from the last level to the first
    pairs: bool = False

    def numbers(self, interpret: bool) -> Floats | Pairs:
        """Layout of elements in registers."""
        return Pairs(interpret) if self.pairs else Floats()

    @property
    def examples(self) -> int:
        """Number of examples per program."""
        return (Pairs if self.pairs else Floats).examples

    @property
    def whole(self) -> bool:
        """Whether the map is one block."""
        return self.rows == self.height

    @property
    def blocks(self) -> int:
        """Number of blocks; the last one may extend below the map."""
        return pl.cdiv(self.height, self.rows)

    def reach(self, size: int) -> int:
        """Returns the number of blocks below a block that a kernel of this size reaches into."""
        return max(pl.cdiv(size // 2, self.rows), 1)

    @property
    def lags(self) -> list[int]:
        """Blocks by which each stage is behind the first."""
        sizes = reversed(self.sizes) if self.back else self.sizes
        return list(itertools.accumulate(map(self.reach, sizes), initial=0))

    @property
    def steps(self) -> int:
        """Number of steps until the last stage has computed the last block."""
        return 1 if self.whole else self.blocks + self.lags[-1]

    @property
    def starts(self) -> list[int]:
        """Index of each kernel's first tap among all taps, then that of the bias."""
        return [sum(size * size for size in self.sizes[:level]) for level in range(len(self.sizes) + 1)]

    @property
    def taps(self) -> int:
        """Number of taps of all kernels, plus one for the bias."""
        return self.starts[-1] + 1

    def block(self, step: jax.Array, lag: int) -> jax.Array:
        """Returns the block that a stage `lag` blocks behind computes at a step; it may be out of range."""
        return jnp.zeros_like(step) if self.whole else step - lag

    def spec(self, lag: int, channels: int = CHANNELS) -> pl.BlockSpec:
        """Returns the block of `[H, W, B, C]` or, with other channels, `[H, W, B, n]` that a step reads or writes."""

        def place(example: jax.Array, channel: jax.Array, step: jax.Array) -> tuple[jax.Array, ...]:
            block = jnp.clip(self.block(step, lag), 0, self.blocks - 1)
            return block, 0, example, channel if channels == CHANNELS else 0

        return pl.BlockSpec((self.rows, self.width, self.examples, channels), place)

    @property
    def lanes(self) -> int:
        """Number of lanes that a row of the map takes in registers."""
        return pl.cdiv(self.width, CHANNELS) * CHANNELS

    def gate_spec(self, lag: int) -> pl.BlockSpec:
        """Returns the block of `[parts, H, B, lanes]`, one value per place, that a step writes.

        A part sums 128 channels, or all of them if the map is one block, which then stays in fast memory.
        """

        def place(example: jax.Array, channel: jax.Array, step: jax.Array) -> tuple[jax.Array, ...]:
            part = 0 if self.whole else channel
            return part, jnp.clip(self.block(step, lag), 0, self.blocks - 1), example, 0

        return pl.BlockSpec((1, self.rows, self.examples, self.lanes), place)

    @property
    def rings(self) -> list[tuple[int, int]]:
        """Rows and columns of each level's input in fast memory, with zeros around the map."""
        return [
            (self.height + size - 1 if self.whole else self._held(level) * self.rows, self.width + size - 1)
            for level, size in enumerate(self.sizes)
        ]

    def _held(self, level: int) -> int:
        """Returns the number of blocks in fast memory of the input of a level, counted from 0."""
        convolved = 2 * self.reach(self.sizes[level]) + 1
        # The input of all levels but the first is a level's context, which the forward pass reads again for the sum.
        return convolved if self.back or level == 0 else max(convolved, self.lags[-1] - self.lags[level] + 1)

    @property
    def columns(self) -> int:
        """Columns of a tile."""
        sizes = range(1, min(_REGISTERS, 8) + 1)
        inside = [size for size in sizes if self.width <= CHANNELS or CHANNELS % size == 0]  # of `lanes`, one register
        return max(size for size in inside if self.width % size == 0)

    @property
    def lines(self) -> int:
        """Rows of a tile."""
        most = max(_REGISTERS // self.columns, 1)
        return max(size for size in range(1, most + 1) if self.rows % size == 0)

    def tiles(self, visit: Callable[[jax.Array, jax.Array, jax.Array], None], first: jax.Array) -> None:
        """Calls `visit` with a block's first row and, for each tile, its first row in the block and first column."""
        across = self.width // self.columns

        def visit_row(i: jax.Array, _: None) -> None:
            lax.fori_loop(0, across, lambda j, _: visit(first, i * self.lines, j * self.columns), None)

        lax.fori_loop(0, self.rows // self.lines, visit_row, None)

    def tile(self, top: jax.Array, left: jax.Array) -> list[tuple[int, int, tuple[jax.Array, jax.Array]]]:
        """Returns row and column of each place in a tile, and its position in the block."""
        return [(i, j, (top + i, left + j)) for i in range(self.lines) for j in range(self.columns)]

    def inside(self, row: jax.Array, value: jax.Array) -> jax.Array:
        """Returns the value, or zero below the map's last row."""
        return value if self.height % self.rows == 0 else jnp.where(row < self.height, value, 0.0)


def forward_plan(
    height: int, width: int, sizes: Sequence[int], itemsize: int, vmem: int, pairs: bool = False
) -> Tiling | None:
    """Returns the plan, with bfloat16 pairs if `pairs` is set and they fit; None if no blocks fit."""
    # Context, gates, sum, and what is kept.
    return _plan(Tiling(height, width, tuple(sizes), height, False, pairs), 3 + len(sizes), itemsize, vmem)


def backward_plan(
    height: int, width: int, sizes: Sequence[int], itemsize: int, vmem: int, pairs: bool = False
) -> Tiling | None:
    """Returns the plan, with bfloat16 pairs if `pairs` is set and they fit; None if no blocks fit."""
    whole = Tiling(height, width, tuple(sizes), height, True, pairs)
    # Context and its gradient; of each level what was kept, cotangent and gates; and the gates' gradients.
    return _plan(whole, 2 + 3 * len(sizes), itemsize, vmem, len(sizes))


def _plan(whole: Tiling, maps: int, itemsize: int, vmem: int, gates: int = 0) -> Tiling | None:
    """Returns the plan that computes the fewest rows below the map, with the largest blocks that fit fast memory.

    Args:
      whole: the plan with the map as one block.
      maps: number of maps that are read or written at a time.
      itemsize: bytes per element.
      vmem: bytes of fast memory.
      gates: number of maps of gates' gradients that are written at a time.
    """
    height, reached = whole.height, max(whole.sizes) // 2
    most = min(height - 1, _MOST_ROWS)
    # Blocks of fewer rows than a kernel reaches into take more steps.
    choices = (height, *range(reached + 1, most + 1)), range(1, min(reached, most) + 1)

    def needed(plan: Tiling) -> int:
        registers = sum(math.prod(ring) for ring in plan.rings) + (3 if plan.pairs else 2) * plan.taps
        numbers = plan.examples * CHANNELS * itemsize * maps * plan.width
        gradients = 4 * plan.examples * plan.lanes * gates
        return _REGISTER_BYTES * registers + 2 * plan.rows * (numbers + gradients)

    kinds = [whole, replace(whole, pairs=False)] if whole.pairs else [whole]
    for rows, kind in itertools.product(choices, kinds):
        plans = (replace(kind, rows=number) for number in rows)
        fitting = [plan for plan in plans if needed(plan) <= 0.9 * vmem]
        if fitting:
            return min(fitting, key=lambda plan: (plan.blocks * plan.rows, -plan.rows))
    return None
