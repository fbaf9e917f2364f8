"""How a map is gone through: in blocks of rows that fit fast memory, and in them in tiles whose sums fit registers."""

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

_REGISTERS = 16  # of sums a tile holds; as many again hold what is added to them
_REGISTER_BYTES = 4096
_LARGEST_KERNEL = 9
_MOST_ROWS = 16  # of a block that is not the whole map
_MIB = 2**20
# Fast memory, by how JAX calls the chip.
_VMEM = {"TPU v5 lite": 128 * _MIB, "TPU v5": 64 * _MIB, "TPU v6 lite": 128 * _MIB}
_LEAST_VMEM = 15 * _MIB  # of a v4's 16
_CORES = {"TPU v4": 2, "TPU v5": 2}  # of what JAX calls a device there
_COMPUTE_IN_PAIRS = ("TPU v6 lite",)


def fast_memory(share: float = 0.5) -> int:
    """Bytes a program may take of the fast memory of the chips in use, or of those it is compiled for.

    It is a share, so that others' data may lie there; where there is little, nearly all.
    """
    return max(int(share * _VMEM.get(_chip(), 0)), _LEAST_VMEM)


def cores() -> int:
    """Of a device, which share out what a kernel's program does in parallel."""
    return _CORES.get(_chip(), 1)


def computes_in_pairs(examples: int, dtype: jnp.dtype) -> bool:
    """Whether the chip does bfloat16 sooner, 16 examples at a time, than float32: not where that fills more up."""
    fills_more_up = -examples % Pairs.examples >= Floats.examples
    return dtype == jnp.bfloat16 and not fills_more_up and _chip() in _COMPUTE_IN_PAIRS


def _chip() -> str:
    mesh = jax.sharding.get_abstract_mesh()
    named = None if mesh.empty or mesh.abstract_device is None else mesh.abstract_device.device_kind
    return named or jax.devices()[0].device_kind


def supports(shape: Sequence[int], kernel_sizes: Sequence[int], itemsize: int, vmem: int) -> bool:
    """Whether this form computes contexts `[B, H, W, C]` of numbers so large, with kernels of these sizes."""
    known = bool(kernel_sizes) and all(size % 2 == 1 and size <= _LARGEST_KERNEL for size in kernel_sizes)
    plans = (forward_plan, backward_plan)
    return known and all(plan(*shape[1:3], kernel_sizes, itemsize, vmem) is not None for plan in plans)


@dataclass(frozen=True)
class Plan:
    """The blocks of a map, what of them lies in fast memory, and their tiles."""

    height: int
    width: int
    sizes: tuple[int, ...]  # of the levels' kernels
    rows: int  # of a block
    back: bool  # from the last level to the first
    pairs: bool = False

    def numbers(self, interpret: bool) -> Floats | Pairs:
        """How they lie in registers."""
        return Pairs(interpret) if self.pairs else Floats()

    @property
    def examples(self) -> int:
        """Of a program."""
        return (Pairs if self.pairs else Floats).examples

    @property
    def whole(self) -> bool:
        """Whether the map is one block."""
        return self.rows == self.height

    @property
    def blocks(self) -> int:
        """The last may go on below the map."""
        return pl.cdiv(self.height, self.rows)

    def reach(self, size: int) -> int:
        """Blocks below a block that a kernel of this size reaches into."""
        return max(pl.cdiv(size // 2, self.rows), 1)

    @property
    def lags(self) -> list[int]:
        """Blocks by which each stage is behind the first."""
        sizes = reversed(self.sizes) if self.back else self.sizes
        return list(itertools.accumulate(map(self.reach, sizes), initial=0))

    @property
    def steps(self) -> int:
        """Until the last stage is through with the last block."""
        return 1 if self.whole else self.blocks + self.lags[-1]

    @property
    def starts(self) -> list[int]:
        """Where each kernel's taps start among all of them, and after them the bias."""
        return [sum(size * size for size in self.sizes[:level]) for level in range(len(self.sizes) + 1)]

    @property
    def taps(self) -> int:
        """Of all kernels, and the bias."""
        return self.starts[-1] + 1

    def block(self, step: jax.Array, lag: int) -> jax.Array:
        """Which block is computed at a step by who is so many blocks behind; there may be none of that number."""
        return jnp.zeros_like(step) if self.whole else step - lag

    def spec(self, lag: int, channels: int = CHANNELS) -> pl.BlockSpec:
        """Of `[H, W, B, C]` or, with other channels, `[H, W, B, n]`: the block that is read or written at a step."""

        def place(example: jax.Array, channel: jax.Array, step: jax.Array) -> tuple[jax.Array, ...]:
            block = jnp.clip(self.block(step, lag), 0, self.blocks - 1)
            return block, 0, example, channel if channels == CHANNELS else 0

        return pl.BlockSpec((self.rows, self.width, self.examples, channels), place)

    @property
    def lanes(self) -> int:
        """Of a row of the map in registers."""
        return pl.cdiv(self.width, CHANNELS) * CHANNELS

    def gate_spec(self, lag: int) -> pl.BlockSpec:
        """Of `[parts, H, B, lanes]`, a number for each place: the block that is written at a step.

        A part is of 128 channels, or of all where the map is one block, which then stays where it is.
        """

        def place(example: jax.Array, channel: jax.Array, step: jax.Array) -> tuple[jax.Array, ...]:
            part = 0 if self.whole else channel
            return part, jnp.clip(self.block(step, lag), 0, self.blocks - 1), example, 0

        return pl.BlockSpec((1, self.rows, self.examples, self.lanes), place)

    @property
    def rings(self) -> list[tuple[int, int]]:
        """Rows and columns of what lies in fast memory, of what each level convolves, with zeros around the map."""
        return [
            (self.height + size - 1 if self.whole else self._held(level) * self.rows, self.width + size - 1)
            for level, size in enumerate(self.sizes)
        ]

    def _held(self, level: int) -> int:
        """Blocks that lie in fast memory of what a level, counted from 0, convolves."""
        convolved = 2 * self.reach(self.sizes[level]) + 1
        # What all but the first convolve is a level's context, which going forward is read again for the sum.
        return convolved if self.back or level == 0 else max(convolved, self.lags[-1] - self.lags[level] + 1)

    @property
    def columns(self) -> int:
        """Of a tile."""
        sizes = range(1, min(_REGISTERS, 8) + 1)
        inside = [size for size in sizes if self.width <= CHANNELS or CHANNELS % size == 0]  # of `lanes`, one register
        return max(size for size in inside if self.width % size == 0)

    @property
    def lines(self) -> int:
        """Rows of a tile."""
        most = max(_REGISTERS // self.columns, 1)
        return max(size for size in range(1, most + 1) if self.rows % size == 0)

    def tiles(self, visit: Callable[[jax.Array, jax.Array, jax.Array], None], first: jax.Array) -> None:
        """Calls with a block's first row and, of each tile, the first row, counted in the block, and column."""
        across = self.width // self.columns

        def visit_row(i: jax.Array, _: None) -> None:
            lax.fori_loop(0, across, lambda j, _: visit(first, i * self.lines, j * self.columns), None)

        lax.fori_loop(0, self.rows // self.lines, visit_row, None)

    def tile(self, top: jax.Array, left: jax.Array) -> list[tuple[int, int, tuple[jax.Array, jax.Array]]]:
        """Row and column of each place in a tile, and where that is in its block."""
        return [(i, j, (top + i, left + j)) for i in range(self.lines) for j in range(self.columns)]

    def inside(self, row: jax.Array, value: jax.Array) -> jax.Array:
        """The value, zero where a block goes on below the map's last row."""
        return value if self.height % self.rows == 0 else jnp.where(row < self.height, value, 0.0)


def forward_plan(
    height: int, width: int, sizes: Sequence[int], itemsize: int, vmem: int, pairs: bool = False
) -> Plan | None:
    """None where no blocks fit; `pairs` are taken where they do."""
    # Context, gates, sum, and what is kept.
    return _plan(Plan(height, width, tuple(sizes), height, False, pairs), 3 + len(sizes), itemsize, vmem)


def backward_plan(
    height: int, width: int, sizes: Sequence[int], itemsize: int, vmem: int, pairs: bool = False
) -> Plan | None:
    """None where no blocks fit; `pairs` are taken where they do."""
    whole = Plan(height, width, tuple(sizes), height, True, pairs)
    # Context and its gradient; of each level what was kept, cotangent and gates; and the gates' gradients.
    return _plan(whole, 2 + 3 * len(sizes), itemsize, vmem, len(sizes))


def _plan(whole: Plan, maps: int, itemsize: int, vmem: int, gates: int = 0) -> Plan | None:
    """The blocks with which the least is computed below the last row, of those that fit fast memory the largest.

    It is given what they are blocks of as one, and how many `maps`, and maps of `gates`, are read or written at a time.
    """
    height, reached = whole.height, max(whole.sizes) // 2
    most = min(height - 1, _MOST_ROWS)
    # Blocks of fewer rows than a kernel reaches into take more steps.
    choices = (height, *range(reached + 1, most + 1)), range(1, min(reached, most) + 1)

    def needed(plan: Plan) -> int:
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
