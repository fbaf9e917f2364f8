"""Plans the computation of a map in blocks of rows that fit in fast memory (VMEM), and tiles that fit in registers."""

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
_LARGEST_KERNEL = 13  # as in the recipes of dense tasks: three levels from a window of 9
_MOST_ROWS = 16  # of a block that is not the whole map
_MIB = 2**20
# Fast memory in bytes, by JAX's name of the chip.
_VMEM = {"TPU v5 lite": 128 * _MIB, "TPU v5": 64 * _MIB, "TPU v6 lite": 128 * _MIB}
_LEAST_VMEM = 15 * _MIB  # a v4 has 16
_CORES = {"TPU v4": 2, "TPU v5": 2}  # per JAX device; one on all other chips
_COMPUTE_IN_PAIRS = ("TPU v6 lite",)


def fast_memory(share: float = 0.5) -> int:
    """Returns the bytes of fast memory that a kernel may use, on the chip in use or the chip that it is compiled for.

    This is the fraction `share` of the chip's fast memory, which leaves room for XLA's own data, but at least 15 MiB,
    which is nearly all of the fast memory of a v4.
    """
    return max(int(share * _VMEM.get(_chip(), 0)), _LEAST_VMEM)


def cores() -> int:
    """Returns the number of cores per device, over which the parallel axis of a kernel's grid is split."""
    return _CORES.get(_chip(), 1)


def computes_in_pairs(examples: int, dtype: jnp.dtype) -> bool:
    """Returns whether to compute 16 examples in pairs of bfloat16, instead of 8 examples in float32.

    The result is True if the arrays are bfloat16, pairs are faster on this chip (v6e), and groups of 16 examples need
    no more padding than groups of 8.
    """
    fills_more_up = -examples % Pairs.examples >= Floats.examples
    return dtype == jnp.bfloat16 and not fills_more_up and _chip() in _COMPUTE_IN_PAIRS


def _chip() -> str:
    mesh = jax.sharding.get_abstract_mesh()
    named = None if mesh.empty or mesh.abstract_device is None else mesh.abstract_device.device_kind
    return named or jax.devices()[0].device_kind


def supports(shape: Sequence[int], kernel_sizes: Sequence[int], itemsize: int, vmem: int) -> bool:
    """Returns whether the kernels support contexts of this shape, `[B, H, W, C]`, with these kernel sizes.

    There must be at least one kernel, sizes must be odd and at most 13, and blocks of some number of rows must fit in
    `vmem` bytes of fast memory. An element of the context has `itemsize` bytes.
    """
    known = bool(kernel_sizes) and all(size % 2 == 1 and size <= _LARGEST_KERNEL for size in kernel_sizes)
    plans = (forward_plan, backward_plan)
    return known and all(plan(*shape[1:3], kernel_sizes, itemsize, vmem) is not None for plan in plans)


@dataclass(frozen=True)
class Tiling:
    """A plan: the blocks of a map, the rows of each level in fast memory, and the tiles of a block."""

    height: int
    width: int
    sizes: tuple[int, ...]  # size of each level's kernel
    rows: int  # number of rows of a block
    back: bool  # whether it is the backward pass, from the last level to the first
    pairs: bool = False  # whether registers contain 16 examples in bfloat16 pairs

    def numbers(self, interpret: bool) -> Floats | Pairs:
        """Returns the layout of elements in registers."""
        return Pairs(interpret) if self.pairs else Floats()

    @property
    def examples(self) -> int:
        """Number of examples per kernel instance."""
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
        """Returns the number of blocks below its centre's block that a window of this size reaches into, at least 1."""
        return max(pl.cdiv(size // 2, self.rows), 1)

    @property
    def lags(self) -> list[int]:
        """For each stage, the number of blocks by which it is behind the first stage: 0 for the first stage."""
        sizes = reversed(self.sizes) if self.back else self.sizes
        return list(itertools.accumulate(map(self.reach, sizes), initial=0))

    @property
    def steps(self) -> int:
        """Number of steps until the last stage has computed the last block."""
        return 1 if self.whole else self.blocks + self.lags[-1]

    @property
    def starts(self) -> list[int]:
        """Index of each kernel's first tap among all taps, followed by the index of the bias."""
        return [sum(size * size for size in self.sizes[:level]) for level in range(len(self.sizes) + 1)]

    @property
    def taps(self) -> int:
        """Number of taps of all kernels, plus one for the bias."""
        return self.starts[-1] + 1

    def block(self, step: jax.Array, lag: int) -> jax.Array:
        """Returns the index of the block that a stage computes in a step.

        The stage is `lag` blocks behind the first stage. The index is out of range if the stage computes nothing.
        """
        return jnp.zeros_like(step) if self.whole else step - lag

    def spec(self, lag: int, channels: int = CHANNELS) -> pl.BlockSpec:
        """Returns the block of a map that a stage reads or writes in a step, `lag` blocks behind the first stage.

        By default, the map is `[H, W, B, C]` and a block has 128 of its channels. With another number of `channels`,
        the map is `[H, W, B, channels]` and a block has all of them.
        """

        def place(example: jax.Array, channel: jax.Array, step: jax.Array) -> tuple[jax.Array, ...]:
            block = jnp.clip(self.block(step, lag), 0, self.blocks - 1)
            return block, 0, example, channel if channels == CHANNELS else 0

        return pl.BlockSpec((self.rows, self.width, self.examples, channels), place)

    @property
    def lanes(self) -> int:
        """Number of lanes of the registers that contain a row of the map, one value per position."""
        return pl.cdiv(self.width, CHANNELS) * CHANNELS

    def gate_spec(self, lag: int) -> pl.BlockSpec:
        """Returns the block of a gate's gradient, `[parts, H, B, lanes]`, that a stage writes in a step.

        Each part is the sum over 128 channels, or over all channels if the map is one block, because the block then
        stays in fast memory.
        """

        def place(example: jax.Array, channel: jax.Array, step: jax.Array) -> tuple[jax.Array, ...]:
            part = 0 if self.whole else channel
            return part, jnp.clip(self.block(step, lag), 0, self.blocks - 1), example, 0

        return pl.BlockSpec((1, self.rows, self.examples, self.lanes), place)

    @property
    def rings(self) -> list[tuple[int, int]]:
        """Numbers of rows and columns of each level's buffer in fast memory, including the zeros around the map.

        The buffer contains the input of the level or, in the backward pass, the gradient of the input of its GELU.
        """
        return [
            (self.height + size - 1 if self.whole else self._held(level) * self.rows, self.width + size - 1)
            for level, size in enumerate(self.sizes)
        ]

    def _held(self, level: int) -> int:
        """Returns the number of blocks that the buffer of a level contains; levels are counted from 0."""
        convolved = 2 * self.reach(self.sizes[level]) + 1
        # The input of every level but the first is a context, which the last stage of the forward pass adds to the sum.
        return convolved if self.back or level == 0 else max(convolved, self.lags[-1] - self.lags[level] + 1)

    @property
    def columns(self) -> int:
        """Number of columns of a tile."""
        sizes = range(1, min(_REGISTERS, 8) + 1)
        # The gates' gradients of a row of a tile must be in a single register of `lanes`.
        inside = [size for size in sizes if self.width <= CHANNELS or CHANNELS % size == 0]
        return max(size for size in inside if self.width % size == 0)

    @property
    def lines(self) -> int:
        """Number of rows of a tile."""
        most = max(_REGISTERS // self.columns, 1)
        return max(size for size in range(1, most + 1) if self.rows % size == 0)

    def tiles(self, visit: Callable[[jax.Array, jax.Array, jax.Array], None], first: jax.Array) -> None:
        """Calls `visit(first, top, left)` for each tile of a block.

        `first` is the first row of the block; `top` and `left` are the first row of the tile in the block and its first
        column.
        """
        across = self.width // self.columns

        def visit_row(i: jax.Array, _: None) -> None:
            lax.fori_loop(0, across, lambda j, _: visit(first, i * self.lines, j * self.columns), None)

        lax.fori_loop(0, self.rows // self.lines, visit_row, None)

    def tile(self, top: jax.Array, left: jax.Array) -> list[tuple[int, int, tuple[jax.Array, jax.Array]]]:
        """Returns each position of a tile: its row and its column in the tile, and its (row, column) in the block."""
        return [(i, j, (top + i, left + j)) for i in range(self.lines) for j in range(self.columns)]

    def inside(self, row: jax.Array, value: jax.Array) -> jax.Array:
        """Returns `value`, or zero if `row` is below the last row of the map."""
        return value if self.height % self.rows == 0 else jnp.where(row < self.height, value, 0.0)


def forward_plan(
    height: int, width: int, sizes: Sequence[int], itemsize: int, vmem: int, pairs: bool = False
) -> Tiling | None:
    """Returns the plan of the forward pass, or None if no blocks fit in fast memory.

    Args:
      height: height of the map.
      width: width of the map.
      sizes: size of each level's kernel.
      itemsize: bytes per element of the map.
      vmem: bytes of fast memory.
      pairs: whether to use bfloat16 pairs, if they fit.
    """
    # The maps are the context, the gates, the gated sum, and the input of GELU of each level.
    return _plan(Tiling(height, width, tuple(sizes), height, False, pairs), 3 + len(sizes), itemsize, vmem)


def backward_plan(
    height: int, width: int, sizes: Sequence[int], itemsize: int, vmem: int, pairs: bool = False
) -> Tiling | None:
    """Returns the plan of the backward pass, or None if no blocks fit in fast memory.

    The arguments are described in `forward_plan`.
    """
    whole = Tiling(height, width, tuple(sizes), height, True, pairs)
    # The maps are the context and its gradient and, for each level, the input of GELU, the cotangent and the gates.
    return _plan(whole, 2 + 3 * len(sizes), itemsize, vmem, len(sizes))


def _plan(whole: Tiling, maps: int, itemsize: int, vmem: int, gates: int = 0) -> Tiling | None:
    """Returns the plan that computes the fewest rows below the map, of the plans that fit in fast memory.

    Of several such plans, returns the plan with the largest blocks. Blocks of more rows than a window reaches below its
    centre are preferred to smaller blocks, and pairs are preferred if `whole` has pairs. Returns None if no plan fits.

    Args:
      whole: the plan with the map as one block.
      maps: number of maps; a step reads or writes one block of each.
      itemsize: bytes per element.
      vmem: bytes of fast memory.
      gates: number of gates' gradients; a step writes one block of each.
    """
    height, reached = whole.height, max(whole.sizes) // 2
    most = min(height - 1, _MOST_ROWS)
    # With blocks that a window may reach across, a map takes more steps, so they are tried last.
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
