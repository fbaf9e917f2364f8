"""The context aggregation for TPUs in two Pallas kernels: all focal levels in one pass, and their gradients in another.

A program takes 8 examples and 128 channels, the sublanes and lanes of a vector register, so that a shift along H or W
is another address and moves nothing. It goes down the rows in blocks. Each level is one block behind the one before it,
whose last rows lie in fast memory; a map that fits there whole is one block. Going back, level follows after level in
the same way from the last to the first. What GELU was applied to is kept for that; all else is computed again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from focalnet_jax.ops.gelu import gelu, gelu_and_slope, quick_gelu, quick_gelu_and_slope

_EXAMPLES, _CHANNELS = 8, 128
_REGISTERS = 16  # of sums a tile holds; as many again hold what is added to them
_LARGEST_KERNEL = 9
_MOST_ROWS = 16  # of a block that is not the whole map
_MIB = 2**20
# Fast memory a program may take, by how JAX calls the chip: half of what it has, so that others' data may lie there.
_VMEM = {"TPU v5 lite": 64 * _MIB, "TPU v5": 32 * _MIB, "TPU v6 lite": 64 * _MIB}
_LEAST_VMEM = 15 * _MIB  # of a v4's 16
_Values = list[list[jax.Array]]  # of a tile: rows, columns, each [8, 128]


def fast_memory() -> int:
    """Bytes a program may take of the fast memory of the chips in use, or of those it is compiled for."""
    mesh = jax.sharding.get_abstract_mesh()
    named = None if mesh.empty or mesh.abstract_device is None else mesh.abstract_device.device_kind
    return _VMEM.get(named or jax.devices()[0].device_kind, _LEAST_VMEM)


def supports(shape: Sequence[int], kernel_sizes: Sequence[int], itemsize: int, vmem: int) -> bool:
    """Whether this form computes contexts `[B, H, W, C]` of numbers so large, with kernels of these sizes."""
    known = all(size % 2 == 1 and size <= _LARGEST_KERNEL for size in kernel_sizes)
    plans = (_forward_plan, _backward_plan)
    return known and all(plan(*shape[1:3], kernel_sizes, itemsize, vmem) is not None for plan in plans)


@dataclass(frozen=True)
class _Plan:
    """How a map is gone through: in blocks of rows, and in them in tiles whose sums stay in registers."""

    height: int
    width: int
    rows: int  # of a block
    held: int  # blocks of a level that lie in fast memory

    @property
    def whole(self) -> bool:
        return self.rows == self.height

    @property
    def blocks(self) -> int:
        return pl.cdiv(self.height, self.rows)

    def steps(self, levels: int) -> int:
        return 1 if self.whole else self.blocks + levels

    def block(self, step: jax.Array, lag: int) -> jax.Array:
        """Which block is computed at a step by who is so many blocks behind; there may be none of that number."""
        return jnp.zeros_like(step) if self.whole else step - lag

    def spec(self, lag: int, examples: int = _EXAMPLES, channels: int = _CHANNELS) -> pl.BlockSpec:
        """Of `[H, W, B, C]` or, with other channels, `[H, W, B, n]`: the block that is read or written at a step."""

        def place(example: jax.Array, channel: jax.Array, step: jax.Array) -> tuple[jax.Array, ...]:
            block = jnp.clip(self.block(step, lag), 0, self.blocks - 1)
            return block, 0, example, channel if channels == _CHANNELS else 0

        return pl.BlockSpec((self.rows, self.width, examples, channels), place)

    @property
    def columns(self) -> int:
        """Of a tile."""
        return max(size for size in range(1, min(_REGISTERS, 8) + 1) if self.width % size == 0)

    @property
    def lines(self) -> int:
        """Rows of a tile."""
        most = max(_REGISTERS // self.columns, 1)
        return max(size for size in range(1, most + 1) if self.rows % size == 0)

    def inside(self, row: jax.Array, value: jax.Array) -> jax.Array:
        """The value, zero where a block goes on below the map's last row."""
        return value if self.height % self.rows == 0 else jnp.where(row < self.height, value, 0.0)

    def tiles(self, visit: Callable[[jax.Array, jax.Array], None]) -> None:
        """Calls with each tile's first row, counted in its block, and first column."""

        def visit_row(i: jax.Array, _: None) -> None:
            lax.fori_loop(0, self.width // self.columns, lambda j, _: visit(i * self.lines, j * self.columns), None)

        lax.fori_loop(0, self.rows // self.lines, visit_row, None)


def _forward_plan(height: int, width: int, sizes: Sequence[int], itemsize: int, vmem: int) -> _Plan | None:
    # A level's rows are read again when the last one's are computed. Context, gates, sum, and what is kept.
    return _plan(height, width, sizes, max(3, len(sizes) + 1), 3 + len(sizes), itemsize, vmem)


def _backward_plan(height: int, width: int, sizes: Sequence[int], itemsize: int, vmem: int) -> _Plan | None:
    # Context and its gradient; of each level what was kept, cotangent and gates.
    return _plan(height, width, sizes, 3, 2 + 3 * len(sizes), itemsize, vmem)


def _plan(
    height: int, width: int, sizes: Sequence[int], held: int, maps: int, itemsize: int, vmem: int
) -> _Plan | None:
    """The blocks with which the least is computed below the last row, of those that fit fast memory the largest.

    So many of them are `held` there of each level at a time, and `maps` read or written. None where nothing fits.
    """
    whole, blocks = height, range(max(sizes) // 2 + 1, min(height - 1, _MOST_ROWS) + 1)
    plans = [_Plan(height, width, rows, held) for rows in (whole, *blocks)]
    numbers = _EXAMPLES * _CHANNELS

    def needed(plan: _Plan) -> int:
        kept = sum(math.prod(_Rows.shape(plan, size // 2)[:2]) for size in sizes)
        taps = 2 * sum(size * size for size in sizes)
        return numbers * (4 * (kept + taps) + 2 * itemsize * maps * plan.rows * width)

    fitting = [plan for plan in plans if needed(plan) <= 0.9 * vmem]
    return min(fitting, key=lambda plan: (plan.blocks * plan.rows, -plan.rows), default=None)


class _Rows:
    """Rows of a map in fast memory, `[rows, W + 2 pad, 8, 128]` float32, with zeros around the map."""

    def __init__(self, ref: Any, plan: _Plan, pad: int):
        self._ref, self._plan, self._pad = ref, plan, pad

    @staticmethod
    def shape(plan: _Plan, pad: int) -> tuple[int, ...]:
        rows = plan.height + 2 * pad if plan.whole else plan.held * plan.rows
        return rows, plan.width + 2 * pad, _EXAMPLES, _CHANNELS

    @classmethod
    def scratch(cls, plan: _Plan, pad: int) -> Any:
        return pltpu.VMEM(cls.shape(plan, pad), jnp.float32)

    def _at(self, row: jax.Array) -> jax.Array:
        if self._plan.whole:
            return row + self._pad
        length = self._ref.shape[0]
        return lax.rem(row + length, jnp.int32(length))

    def clear(self) -> None:
        def clear_row(row: jax.Array, _: None) -> None:
            self._ref[row] = jnp.zeros(self._ref.shape[1:], jnp.float32)

        lax.fori_loop(0, self._ref.shape[0], clear_row, None)

    def clear_below(self) -> None:
        """Zeros under the last block."""
        for row in range(self._pad):
            self._ref[self._at(jnp.int32(self._plan.blocks * self._plan.rows + row))] = jnp.zeros(
                self._ref.shape[1:], jnp.float32
            )

    def put(self, row: jax.Array, column: jax.Array, value: jax.Array) -> None:
        self._ref[self._at(row), column + self._pad] = self._plan.inside(row, value)

    def get(self, row: jax.Array, column: jax.Array) -> jax.Array:
        return self._ref[self._at(row), column + self._pad]

    def window(self, row: jax.Array, column: jax.Array, count: int) -> list[jax.Array]:
        """So many numbers from `pad` before a column on."""
        at = self._at(row)
        return [self._ref[at, column + offset] for offset in range(count)]


def _sweep(
    source: _Rows,
    plan: _Plan,
    k: int,
    top: jax.Array,
    left: jax.Array,
    each: Callable[[int, int, list[jax.Array]], None],
) -> None:
    """Calls, for every row that a tile's rows need, with the row of the tile, that of the kernel, and the numbers."""
    for line in range(plan.lines + k - 1):
        numbers = source.window(top + (line - k // 2), left, plan.columns + k - 1)
        for row in range(max(0, line - k + 1), min(plan.lines, line + 1)):
            each(row, line - row, numbers)


def _zeros(plan: _Plan) -> _Values:
    return [[jnp.zeros((_EXAMPLES, _CHANNELS), jnp.float32) for _ in range(plan.columns)] for _ in range(plan.lines)]


def _add_taps(sums: _Values, row: int, numbers: list[jax.Array], taps: list[jax.Array]) -> None:
    for offset, tap in enumerate(taps):
        for column in range(len(sums[row])):
            sums[row][column] += numbers[column + offset] * tap


def _spread_taps(taps_ref: Any, spread_ref: Any) -> None:
    """A number for each channel becomes a register, the same for all examples."""
    for index in range(taps_ref.shape[0]):
        spread_ref[index] = jnp.broadcast_to(taps_ref[pl.ds(index, 1), :].astype(jnp.float32), spread_ref.shape[1:])


def _starts(sizes: Sequence[int]) -> list[int]:
    """Where each kernel's taps start among all of them; at last how many there are."""
    return [sum(size * size for size in sizes[:level]) for level in range(len(sizes) + 1)]


def _pack(kernels: Sequence[jax.Array]) -> jax.Array:
    """`[taps, C]`, level after level."""
    return jnp.concatenate([kernel.reshape(-1, kernel.shape[-1]) for kernel in kernels])


def _call(
    name: str, program: Any, plan: _Plan, shape: tuple[int, ...], levels: int, vmem: int, interpret: bool, **specs: Any
) -> Any:
    examples, channels = shape[2:]
    return pl.pallas_call(
        program,
        name=f"{name}_{1 if plan.whole else plan.blocks}_of_{plan.steps(levels)}",  # for those who count its cycles
        grid=(pl.cdiv(examples, _EXAMPLES), pl.cdiv(channels, _CHANNELS), plan.steps(levels)),
        interpret=interpret,
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "arbitrary"), vmem_limit_bytes=vmem
        ),
        **specs,
    )


def _taps_spec(count: int) -> pl.BlockSpec:
    return pl.BlockSpec((count, _CHANNELS), lambda example, channel, step: (0, channel))


def _rows_first(x: jax.Array) -> jax.Array:
    """`[H, W, B, n]` of `[B, H, W, n]`, B filled up to a multiple of 8; the compiler may lay it out so at once."""
    x = jnp.pad(x, ((0, -len(x) % _EXAMPLES), *((0, 0),) * 3))
    return x.transpose(1, 2, 0, 3)


def _examples_first(x: jax.Array, examples: int) -> jax.Array:
    return x.transpose(2, 0, 1, 3)[:examples]


_PER_EXAMPLE = pl.BlockSpec((_EXAMPLES, _CHANNELS), lambda example, channel, step: (example, channel))


def focal_levels(
    x: jax.Array, gates: jax.Array, kernels: Sequence[jax.Array], *, keep: bool, vmem: int, interpret: bool = False
) -> tuple[jax.Array, jax.Array, tuple[jax.Array, ...]]:
    """All levels but the global one.

    Args:
      x: `[B, H, W, C]`, level 0's input.
      gates: `[B, H, W, n]`, level l's at l - 1.
      kernels: `[k, k, 1, C]` of each level.
      keep: whether the gradients will be asked for.
      vmem: bytes of fast memory.
      interpret: run it step by step wherever it is.

    Returns:
      The sum of the levels' contexts, each times its gate, `[B, H, W, C]`; the last level's sum over H and W,
      `[B, C]` float32; and with `keep` what GELU is applied to in each level, `[B, H, W, C]`.
    """
    count = len(x)
    x, gates = _rows_first(x), _rows_first(gates)
    height, width, examples, channels = x.shape
    sizes = [len(kernel) for kernel in kernels]
    levels, starts = len(sizes), _starts(sizes)
    plan = _forward_plan(height, width, sizes, x.dtype.itemsize, vmem)
    activate = gelu if x.dtype == jnp.float32 else quick_gelu

    def program(x_ref: Any, gates_ref: Any, taps_ref: Any, total_ref: Any, mean_ref: Any, *others: Any) -> None:
        kept, (spread, *rings) = others[: levels * keep], others[levels * keep :]
        inputs = [_Rows(ring, plan, size // 2) for ring, size in zip(rings, sizes, strict=True)]
        step = pl.program_id(2)

        @pl.when(step == 0)
        def _() -> None:
            _spread_taps(taps_ref, spread)
            for rows in inputs:
                rows.clear()
            mean_ref[...] = jnp.zeros_like(mean_ref)

        def read(first: jax.Array) -> None:
            def copy(row: jax.Array, _: None) -> None:
                for column in range(width):
                    inputs[0].put(first + row, column, x_ref[row, column].astype(jnp.float32))

            lax.fori_loop(0, plan.rows, copy, None)

        def level(number: int, first: jax.Array) -> None:
            k, start = sizes[number], starts[number]

            def tile(top: jax.Array, left: jax.Array) -> None:
                sums = _zeros(plan)

                def add(row: int, i: int, numbers: list[jax.Array]) -> None:
                    _add_taps(sums, row, numbers, [spread[start + i * k + j] for j in range(k)])

                _sweep(inputs[number], plan, k, first + top, left, add)
                mean = jnp.zeros((_EXAMPLES, _CHANNELS), jnp.float32)
                for row in range(plan.lines):
                    for column in range(plan.columns):
                        z = sums[row][column]
                        at = top + row, left + column
                        if keep:
                            kept[number][at] = z.astype(x.dtype)
                        context = activate(z)
                        if number + 1 < levels:
                            inputs[number + 1].put(first + at[0], at[1], context)
                            continue
                        mean += plan.inside(first + at[0], context)
                        gate = gates_ref[at].astype(jnp.float32)
                        total = context * gate[:, levels - 1 : levels]
                        for below in range(1, levels):
                            total += inputs[below].get(first + at[0], at[1]) * gate[:, below - 1 : below]
                        total_ref[at] = total.astype(x.dtype)
                if number + 1 == levels:
                    mean_ref[...] += mean

            plan.tiles(tile)

        def stage(number: int, compute: Callable[[jax.Array], None]) -> None:
            block = plan.block(step, number)
            pl.when((block >= 0) & (block < plan.blocks))(lambda: compute(block * plan.rows))
            if not plan.whole and number < levels:
                pl.when(block == plan.blocks)(inputs[number].clear_below)

        stage(0, read)
        for number in range(levels):
            stage(number + 1, lambda first, number=number: level(number, first))

    like = jax.ShapeDtypeStruct(x.shape, x.dtype)
    total, mean, *kept = _call(
        "focal_levels",
        program,
        plan,
        x.shape,
        levels,
        vmem,
        interpret,
        in_specs=[plan.spec(0), plan.spec(levels, channels=gates.shape[-1]), _taps_spec(starts[-1])],
        out_specs=[plan.spec(levels), _PER_EXAMPLE, *(plan.spec(level) for level in range(1, levels + 1) if keep)],
        out_shape=[like, jax.ShapeDtypeStruct((examples, channels), jnp.float32), *[like] * (levels * keep)],
        scratch_shapes=[
            pltpu.VMEM((starts[-1], _EXAMPLES, _CHANNELS), jnp.float32),
            *(_Rows.scratch(plan, size // 2) for size in sizes),
        ],
    )(x, gates, _pack(kernels))
    return _examples_first(total, count), mean[:count], tuple(_examples_first(each, count) for each in kept)


def focal_level_gradients(
    x: jax.Array,
    gates: jax.Array,
    kernels: Sequence[jax.Array],
    kept: Sequence[jax.Array],
    cotangent: jax.Array,
    above: jax.Array,
    *,
    vmem: int,
    interpret: bool = False,
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """Gradients of `focal_levels`' input, `[B, H, W, C]`, and of the kernels in parts to be added up.

    The parts are `[parts, k, k, 1, C]` float32.

    Args:
      x: as it was given.
      gates: as they were given.
      kernels: as they were given.
      kept: what `focal_levels` kept, `[B, H, W, C]` for each level.
      cotangent: of the sum, `[B, H, W, C]`.
      above: of the last level's sum over H and W, `[B, C]` float32.
      vmem: bytes of fast memory.
      interpret: run it step by step wherever it is.
    """
    given = len(x)
    x, gates, cotangent = _rows_first(x), _rows_first(gates), _rows_first(cotangent)
    above = jnp.pad(above, ((0, x.shape[2] - given), (0, 0)))
    height, width, examples, channels = x.shape
    sizes = [len(kernel) for kernel in kernels]
    levels, starts = len(sizes), _starts(sizes)
    plan = _backward_plan(height, width, sizes, x.dtype.itemsize, vmem)
    both = gelu_and_slope if x.dtype == jnp.float32 else quick_gelu_and_slope

    def program(*refs: Any) -> None:
        x_ref, taps_ref, above_ref = refs[:3]
        # Of each level, from the last to the first: what GELU was applied to, and the cotangent and gates there.
        inputs = [refs[3 + 3 * place : 6 + 3 * place] for place in range(levels)]
        out_ref, taps_out_ref, spread, gathered, *rings = refs[3 + 3 * levels :]
        gradients = [_Rows(ring, plan, size // 2) for ring, size in zip(rings, sizes, strict=True)]
        step = pl.program_id(2)

        @pl.when(step == 0)
        def _() -> None:
            _spread_taps(taps_ref, spread)
            gathered[...] = jnp.zeros_like(gathered)
            for rows in gradients:
                rows.clear()

        def last(first: jax.Array) -> None:
            kept_ref, cotangent_ref, gates_ref = inputs[0]

            def tile(top: jax.Array, left: jax.Array) -> None:
                for row in range(plan.lines):
                    for column in range(plan.columns):
                        at = top + row, left + column
                        _, slope = both(kept_ref[at].astype(jnp.float32))
                        gate = gates_ref[at].astype(jnp.float32)[:, levels - 1 : levels]
                        gradient = (cotangent_ref[at].astype(jnp.float32) * gate + above_ref[...]) * slope
                        gradients[-1].put(first + at[0], at[1], gradient)

            plan.tiles(tile)

        def level(number: int, first: jax.Array) -> None:
            k, start = sizes[number], starts[number]

            def tile(top: jax.Array, left: jax.Array) -> None:
                sums, contexts, slopes = _zeros(plan), _zeros(plan), _zeros(plan)
                for row in range(plan.lines):
                    for column in range(plan.columns):
                        at = top + row, left + column
                        if number == 0:
                            context = x_ref[at].astype(jnp.float32)
                        else:
                            z = inputs[levels - number][0][at].astype(jnp.float32)
                            context, slopes[row][column] = both(z)
                        contexts[row][column] = plan.inside(first + at[0], context)

                def add(row: int, i: int, numbers: list[jax.Array]) -> None:
                    mirrored = [start + (k - 1 - i) * k + (k - 1 - j) for j in range(k)]
                    _add_taps(sums, row, numbers, [spread[index] for index in mirrored])
                    for j, index in enumerate(mirrored):
                        products = [numbers[column + j] * context for column, context in enumerate(contexts[row])]
                        gathered[index] += sum(products[1:], products[0])

                _sweep(gradients[number], plan, k, first + top, left, add)
                for row in range(plan.lines):
                    for column in range(plan.columns):
                        at = top + row, left + column
                        if number == 0:
                            out_ref[at] = sums[row][column].astype(x.dtype)
                            continue
                        _, cotangent_ref, gates_ref = inputs[levels - number]
                        gate = gates_ref[at].astype(jnp.float32)[:, number - 1 : number]
                        arrived = sums[row][column] + cotangent_ref[at].astype(jnp.float32) * gate
                        gradients[number - 1].put(first + at[0], at[1], arrived * slopes[row][column])

            plan.tiles(tile)

        def stage(lag: int, compute: Callable[[jax.Array], None]) -> None:
            block = plan.block(step, lag)
            pl.when((block >= 0) & (block < plan.blocks))(lambda: compute(block * plan.rows))
            if not plan.whole and lag < levels:
                pl.when(block == plan.blocks)(gradients[levels - 1 - lag].clear_below)

        stage(0, last)
        for lag in range(1, levels + 1):
            stage(lag, lambda first, lag=lag: level(levels - lag, first))

        @pl.when(step == plan.steps(levels) - 1)
        def _() -> None:
            taps_out_ref[0] = jnp.sum(gathered[...], axis=1)

    count = starts[-1]
    groups = pl.cdiv(examples, _EXAMPLES)
    gradient, taps = _call(
        "focal_level_gradients",
        program,
        plan,
        x.shape,
        levels,
        vmem,
        interpret,
        in_specs=[
            plan.spec(levels),
            _taps_spec(count),
            _PER_EXAMPLE,
            *(
                spec
                for lag in range(levels)
                for spec in (plan.spec(lag), plan.spec(lag), plan.spec(lag, channels=gates.shape[-1]))
            ),
        ],
        out_specs=[
            plan.spec(levels),
            pl.BlockSpec((1, count, _CHANNELS), lambda example, channel, step: (example, 0, channel)),
        ],
        out_shape=[
            jax.ShapeDtypeStruct(x.shape, x.dtype),
            jax.ShapeDtypeStruct((groups, count, channels), jnp.float32),
        ],
        scratch_shapes=[
            pltpu.VMEM((count, _EXAMPLES, _CHANNELS), jnp.float32),
            pltpu.VMEM((count, _EXAMPLES, _CHANNELS), jnp.float32),
            *(_Rows.scratch(plan, size // 2) for size in sizes),
        ],
    )(x, _pack(kernels), above, *(each for one in reversed(kept) for each in (_rows_first(one), cotangent, gates)))
    parts = jnp.split(taps, starts[1:-1], axis=1)
    return _examples_first(gradient, given), tuple(
        part.reshape(-1, *kernel.shape) for part, kernel in zip(parts, kernels, strict=True)
    )
