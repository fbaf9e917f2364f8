"""Common parts of the forward and the backward pass: rows in fast memory, sums over windows, and the kernel's call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from focalnet_jax.ops.mosaic.numbers import CHANNELS, EXAMPLES, Floats, Pairs
from focalnet_jax.ops.mosaic.plan import Tiling

Numbers = Floats | Pairs
Values = list[list[jax.Array]]  # of a tile, by row and column, each [examples of a kernel instance, 128] float32


class Rows:
    """Buffer of a level in fast memory: rows of the map, `[rows, W + 2 pad]` registers, with zeros around the map.

    If the map is not one block, the buffer is a ring that contains only the last rows.

    Args:
      ref: reference to the buffer.
      plan: tiling of the map.
      numbers: layout of elements in registers.
      size: size k of the level's kernel; `pad` is k // 2.
    """

    def __init__(self, ref: Any, plan: Tiling, numbers: Numbers, size: int):
        self._ref, self._plan, self._numbers, self._pad = ref, plan, numbers, size // 2

    def _at(self, row: jax.Array) -> jax.Array:
        if self._plan.whole:
            return row + self._pad
        length = self._ref.shape[0]
        return lax.rem(row + length, jnp.int32(length))

    def clear(self) -> None:
        """Sets the whole buffer to zero."""

        def clear_row(row: jax.Array, _: None) -> None:
            self._ref[row] = jnp.zeros_like(self._ref[row])

        lax.fori_loop(0, self._ref.shape[0], clear_row, None)

    def clear_below(self, block: jax.Array) -> None:
        """Sets the rows of `block` that windows read to zero if `block` is below the map; otherwise does nothing."""
        plan = self._plan
        for first in range(0, self._pad, plan.rows):

            @pl.when(block == plan.blocks + first // plan.rows)
            def _(first: int = first) -> None:
                for row in range(first, min(first + plan.rows, self._pad)):
                    at = self._at(jnp.int32(plan.blocks * plan.rows + row))
                    self._ref[at] = jnp.zeros_like(self._ref[at])

    def put(self, row: jax.Array, column: jax.Array | int, value: jax.Array) -> None:
        """Writes `value`, `[examples of a kernel instance, 128]` float32, to a position, but zeros below the map."""
        self._ref[self._at(row), column + self._pad] = self._numbers.pack(self._plan.inside(row, value))

    def get(self, row: jax.Array, column: jax.Array) -> jax.Array:
        """Returns the value that `put` wrote to a position, as float32; `Pairs` have rounded it to bfloat16."""
        return self._numbers.unpack(self._ref[self._at(row), column + self._pad])

    def sweep(self, top: jax.Array, left: jax.Array, each: Callable[[int, int, list[jax.Array]], None]) -> None:
        """Calls `each(i, j, registers)` for every row i of a tile and every row j of the kernel.

        The registers contain the elements of the map that row j of the windows around the tile's row i covers.

        Args:
          top: first row of the tile in the map.
          left: first column of the tile in the map.
          each: function to call.
        """
        lines, k = self._plan.lines, 2 * self._pad + 1
        for line in range(lines + k - 1):
            at = self._at(top + (line - self._pad))
            registers = [self._ref[at, left + offset] for offset in range(self._plan.columns + k - 1)]
            for row in range(max(0, line - k + 1), min(lines, line + 1)):
                each(row, line - row, registers)


def zeros(plan: Tiling) -> Values:
    """Returns zeros for each position of a tile."""
    return [[jnp.zeros((plan.examples, CHANNELS), jnp.float32) for _ in range(plan.columns)] for _ in range(plan.lines)]


def add_taps(numbers: Numbers, sums: list[jax.Array], registers: list[jax.Array], taps: list[jax.Array]) -> None:
    """Adds the products of a row of the map and a row of the kernel to `sums`, the sums of a row of the tile."""
    for column, total in enumerate(sums):
        sums[column] = numbers.add_products(total, list(zip(registers[column:], taps, strict=False)), len(taps))


def spread_taps(numbers: Numbers, taps_ref: Any, spread_ref: Any) -> None:
    """Writes each tap to a register of `spread_ref`, repeated for all examples."""
    for index in range(taps_ref.shape[0]):
        tap = taps_ref[pl.ds(index, 1), :].astype(jnp.float32)
        spread_ref[index] = numbers.pack(jnp.broadcast_to(tap, (numbers.examples, CHANNELS)))


def clear(plan: Tiling, levels: Sequence[Rows]) -> None:
    """Sets the buffers of all levels to zero in the first step.

    If the map is one block, the zeros around the map are never overwritten, so this is done only for the first 128
    channels.
    """
    begins = pl.program_id(2) == 0

    @pl.when(begins & (pl.program_id(1) == 0) if plan.whole else begins)
    def _() -> None:
        for rows in levels:
            rows.clear()


def run_stages(plan: Tiling, stages: Sequence[tuple[Callable[[jax.Array], None], Rows | None]]) -> None:
    """Runs all stages of one grid step.

    A stage computes the block of rows that is `plan.lags` blocks behind the block of the first stage, and is skipped if
    this block is outside of the map. Rows below the map that the next stage reads are zero.

    Args:
      plan: tiling of the map.
      stages: for each stage, a function that receives the first row of the stage's block, and the buffer that the
        function writes, or None for the last stage.
    """
    step = pl.program_id(2)
    for lag, (compute, written) in zip(plan.lags, stages, strict=True):
        block = plan.block(step, lag)
        pl.when((block >= 0) & (block < plan.blocks))(
            lambda compute=compute, block=block: compute(block * jnp.int32(plan.rows))
        )
        if written is not None and not plan.whole:
            written.clear_below(block)


def rows_first(x: jax.Array, examples: int = EXAMPLES) -> jax.Array:
    """Transposes `[B, H, W, n]` to `[H, W, B, n]` and pads B with zeros to a multiple of `examples`.

    The compiler may choose layouts that need no copy.
    """
    x = jnp.pad(x, ((0, -len(x) % examples), *((0, 0),) * 3))
    return x.transpose(1, 2, 0, 3)


def examples_first(x: jax.Array, examples: int) -> jax.Array:
    """Transposes `[H, W, B, n]` to `[B, H, W, n]` and keeps only the first `examples` examples, without the padding."""
    return x.transpose(2, 0, 1, 3)[:examples]


def packed(kernels: Sequence[jax.Array], bias: jax.Array) -> jax.Array:
    """Returns the taps of all kernels, followed by the bias, `[taps, C]`."""
    return jnp.concatenate([each.reshape(-1, each.shape[-1]) for each in (*kernels, bias)])


def taps_spec(plan: Tiling) -> pl.BlockSpec:
    """Returns the block of the taps of all kernels and the bias, `[taps, C]`, that a kernel instance uses."""
    return pl.BlockSpec((plan.taps, CHANNELS), lambda example, channel, step: (0, channel))


def means_spec(plan: Tiling) -> pl.BlockSpec:
    """Returns the block of values per example and channel, `[B, C]`, that a kernel instance uses."""
    return pl.BlockSpec((plan.examples, CHANNELS), lambda example, channel, step: (example, channel))


def call(
    program: Callable[..., None],
    plan: Tiling,
    inputs: Sequence[tuple[jax.Array, pl.BlockSpec]],
    outputs: Sequence[tuple[jax.ShapeDtypeStruct, pl.BlockSpec]],
    *,
    name: str,
    sums: tuple[int, ...],
    vmem: int,
    interpret: bool,
) -> list[jax.Array]:
    """Runs a kernel for all examples and channels of the first input, `[H, W, B, C]`, and returns its outputs.

    Args:
      program: body of the kernel. It receives references to the inputs, to the outputs, to a register for each tap, to
        float32 sums, and to the buffer of each level.
      plan: tiling of the maps.
      inputs: inputs and their blocks.
      outputs: shapes of the outputs and their blocks.
      name: start of the kernel's name.
      sums: leading axes of the float32 sums, which have the shape `[*sums, examples of a kernel instance, 128]`.
      vmem: bytes of fast memory.
      interpret: whether to interpret the kernel step by step, on any platform.
    """
    shape = inputs[0][0].shape
    *_, examples, channels = shape
    # The name has all shapes, so that profiles and cost estimates can tell kernels apart. It ends with the number of
    # steps that compute and the number of all steps, which `aot/bundles.py` reads.
    described = f"{'x'.join(map(str, (*shape, *plan.sizes)))}_{1 if plan.whole else plan.blocks}_of_{plan.steps}"
    register = plan.numbers(interpret).register
    fast = [pltpu.VMEM((*shape, *register.shape), register.dtype) for shape in ((plan.taps,), *plan.rings)]
    fast.insert(1, pltpu.VMEM((*sums, plan.examples, CHANNELS), jnp.float32))
    return pl.pallas_call(
        program,
        name=f"{name}_{described}",
        grid=(pl.cdiv(examples, plan.examples), pl.cdiv(channels, CHANNELS), plan.steps),
        in_specs=[spec for _, spec in inputs],
        out_specs=[spec for _, spec in outputs],
        out_shape=[shape for shape, _ in outputs],
        scratch_shapes=fast,
        interpret=interpret,
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary", "arbitrary"), vmem_limit_bytes=vmem
        ),
    )(*(array for array, _ in inputs))
