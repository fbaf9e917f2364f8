"""Triton kernels for NVIDIA GPUs: the convolution of a focal level with its GELU, and their gradients.

A kernel instance computes a few rows of up to 128 channels, with one channel per thread. It moves along the columns.
Each input column is added to the k output columns that depend on it, so an element is loaded once for all outputs of a
row. Meanwhile, the next column is being loaded. Only the contexts of the levels are kept for the backward pass; the
inputs of GELU are recomputed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from focalnet_jax.ops.gelu import gelu, gelu_slope

# Rows per kernel instance, by kernel size. More rows or larger kernels do not fit in the registers of a thread.
_ROWS = {3: 4, 5: 4, 7: 2, 9: 1}
_GRADIENT_ROWS = 2  # rows whose products one kernel instance adds up
_Index = jnp.int32
_Column = tuple[jax.Array, ...]


def supports(channels: int, kernel_sizes: Sequence[int]) -> bool:
    """Returns whether the kernels support this number of channels and these kernel sizes."""
    return channels % 32 == 0 and all(size in _ROWS for size in kernel_sizes)


def focal_level(x: jax.Array, kernel: jax.Array, *, interpret: bool = False) -> jax.Array:
    """Returns GELU of the depthwise convolution of `x` with `kernel`, in the shape of `x`.

    Args:
      x: input `[B, H, W, C]`.
      kernel: kernel `[k, k, 1, C]`.
      interpret: whether to interpret the kernel step by step, on any platform.
    """
    return _convolve("focal_level", x, kernel, gelu, interpret)


def input_gradient(cotangent: jax.Array, kernel: jax.Array, *, interpret: bool = False) -> jax.Array:
    """Returns the gradient of the convolution's input, `[B, H, W, C]`, from the gradient of its output."""
    return _convolve("focal_input_gradient", cotangent, kernel[::-1, ::-1], lambda z: z, interpret)


def _convolve(
    name: str, x: jax.Array, kernel: jax.Array, then: Callable[[jax.Array], jax.Array], interpret: bool
) -> jax.Array:
    k, rows, block = kernel.shape[0], _ROWS[kernel.shape[0]], _channels(x)
    _, height, width, _ = x.shape

    def program(x_ref: Any, kernel_ref: Any, out_ref: Any) -> None:
        image, top, channels = _place(rows, block)
        column = _columns(x_ref, (image, top - k // 2, channels), k + rows - 1)

        def finish(w: jax.Array, sums: _Column, _: Any) -> None:
            for row, z in enumerate(sums):
                inside = (w >= 0) & (w < width) & (top + row < height)
                _store(out_ref, (image, top + row, w, channels), then(z), inside)

        _sweep(lambda w: (column(w), ()), _weights(kernel_ref, channels), rows, width, finish)

    grid = (x.shape[0], pl.cdiv(height, rows), x.shape[-1] // block)
    return _call(name, program, jax.ShapeDtypeStruct(x.shape, x.dtype), grid, block, interpret)(x, kernel)


def preactivation_gradient(
    x: jax.Array,
    kernel: jax.Array,
    cotangent: jax.Array,
    gate: jax.Array,
    above: jax.Array,
    *,
    interpret: bool = False,
) -> jax.Array:
    """Returns the gradient of the input of a level's GELU, `[B, H, W, C]`.

    Args:
      x: input of the level, `[B, H, W, C]`.
      kernel: kernel `[k, k, 1, C]`.
      cotangent: gradient of the gated sum, `[B, H, W, C]`.
      gate: gate of the level, `[B, H, W]`.
      above: gradient of the level's context except through the gated sum, `[B, H, W, C]`.
      interpret: whether to interpret the kernel step by step, on any platform.
    """
    k, rows, block = kernel.shape[0], _ROWS[kernel.shape[0]], _channels(x)
    _, height, width, _ = x.shape

    def program(x_ref: Any, kernel_ref: Any, cotangent_ref: Any, gate_ref: Any, above_ref: Any, out_ref: Any) -> None:
        image, top, channels = _place(rows, block)
        column = _columns(x_ref, (image, top - k // 2, channels), k + rows - 1)

        def load(w: jax.Array) -> tuple[_Column, Any]:
            done, more = w - k // 2, []
            for row in range(rows):
                inside = (done >= 0) & (done < width) & (top + row < height)
                at = (image, top + row, done)
                more.append(
                    _load(cotangent_ref, (*at, channels), inside) * _load(gate_ref, at, inside)
                    + _load(above_ref, (*at, channels), inside)
                )
            return column(w), tuple(more)

        def finish(w: jax.Array, sums: _Column, gradients: _Column) -> None:
            for row, (z, gradient) in enumerate(zip(sums, gradients, strict=True)):
                inside = (w >= 0) & (w < width) & (top + row < height)
                _store(out_ref, (image, top + row, w, channels), gradient * gelu_slope(z), inside)

        _sweep(load, _weights(kernel_ref, channels), rows, width, finish)

    grid = (x.shape[0], pl.cdiv(height, rows), x.shape[-1] // block)
    out = jax.ShapeDtypeStruct(x.shape, x.dtype)
    name = "focal_preactivation_gradient"
    return _call(name, program, out, grid, block, interpret)(x, kernel, cotangent, gate, above)


def kernel_gradient_parts(x: jax.Array, cotangent: jax.Array, k: int, *, interpret: bool = False) -> jax.Array:
    """Returns the gradient of the convolution's kernel in parts that the caller adds up, `[B, parts, k, k, C]` float32.

    The order of additions is fixed, so results are reproducible.

    Args:
      x: input of the convolution, `[B, H, W, C]`.
      cotangent: gradient of the convolution's output, `[B, H, W, C]`.
      k: kernel size.
      interpret: whether to interpret the kernel step by step, on any platform.
    """
    block = _channels(x)
    batch, height, width, channels = x.shape
    parts = pl.cdiv(height, _GRADIENT_ROWS)

    def program(x_ref: Any, cotangent_ref: Any, out_ref: Any) -> None:
        image, top, channels = _place(_GRADIENT_ROWS, block)

        def row(index: jax.Array, total: Any) -> Any:
            h = top + index
            column = _columns(x_ref, (image, h - k // 2, channels), k)

            def gradient(w: jax.Array) -> jax.Array:
                return _load(cotangent_ref, (image, h, w, channels), (w >= 0) & (w < width) & (h < height))

            def turn(w: jax.Array, state: Any) -> Any:
                (x, new), window, total = state
                ahead = column(w + 1), gradient(w + 1 + k // 2)
                window = (*window, new)  # gradients at w - k // 2 to w + k // 2
                total = tuple(tuple(total[i][j] + x[i] * window[k - 1 - j] for j in range(k)) for i in range(k))
                return ahead, window[1:], total

            first = column(_Index(0)), gradient(_Index(k // 2))
            window = tuple(gradient(_Index(w - k // 2)) for w in range(k - 1))
            return lax.fori_loop(0, width, turn, (first, window, total))[2]

        total = lax.fori_loop(0, _GRADIENT_ROWS, row, ((jnp.zeros(block, jnp.float32),) * k,) * k)
        for i in range(k):
            for j in range(k):
                out_ref[image, pl.program_id(1), i, j, channels] = total[i][j]

    out = jax.ShapeDtypeStruct((batch, parts, k, k, channels), jnp.float32)
    grid = (batch, parts, channels // block)
    return _call("focal_kernel_gradient", program, out, grid, block, interpret)(x, cotangent)


def _sweep(
    load: Callable[[jax.Array], tuple[_Column, Any]],
    weights: Sequence[Sequence[jax.Array]],
    rows: int,
    width: int,
    finish: Callable[[jax.Array, _Column, Any], None],
) -> None:
    """Convolves rows of a map, column by column.

    Args:
      load: function that returns the elements of column w in all rows that are needed, and the values that `finish`
        needs for column w - k // 2. It is called one iteration ahead.
      weights: weights of the kernel, k x k.
      rows: number of rows to compute.
      width: width of the map.
      finish: function that receives the index of a finished column, its sums, and the values loaded for it.
    """
    k = len(weights)
    nothing = (jnp.zeros_like(weights[0][0]),) * rows

    def turn(w: jax.Array, state: Any) -> Any:
        (x, more), pending = state
        ahead = load(w + 1)
        pending = [list(sums) for sums in (*pending, nothing)]  # sums of columns w - k // 2 to w + k // 2
        for place, sums in enumerate(pending):
            for row in range(rows):
                for i in range(k):
                    sums[row] += x[row + i] * weights[i][k - 1 - place]
        finish(w - k // 2, tuple(pending[0]), more)
        return ahead, tuple(tuple(sums) for sums in pending[1:])

    lax.fori_loop(0, width + k // 2, turn, (load(_Index(0)), (nothing,) * (k - 1)))


def _channels(x: jax.Array) -> int:
    return next(block for block in (128, 64, 32) if x.shape[-1] % block == 0)


def _place(rows: int, block: int) -> tuple[jax.Array, jax.Array, pl.Slice]:
    """Returns the image, the first row and the channels of this kernel instance."""
    return pl.program_id(0), pl.program_id(1) * _Index(rows), pl.ds(pl.program_id(2) * _Index(block), block)


def _columns(ref: Any, place: tuple[jax.Array, jax.Array, pl.Slice], count: int) -> Callable[[jax.Array], _Column]:
    """Returns a function that loads `count` rows of the column with a given index, with zeros outside of the map."""
    image, top, channels = place
    _, height, width, _ = ref.shape
    rows = [top + _Index(row) for row in range(count)]
    return lambda w: tuple(
        _load(ref, (image, row, w, channels), (w < width) & (row >= 0) & (row < height)) for row in rows
    )


def _weights(ref: Any, channels: pl.Slice) -> list[list[jax.Array]]:
    k = ref.shape[0]
    return [[ref[i, j, 0, channels].astype(jnp.float32) for j in range(k)] for i in range(k)]


def _load(ref: Any, at: tuple[Any, ...], inside: jax.Array) -> jax.Array:
    mask = jnp.broadcast_to(inside, (at[-1].size,)) if isinstance(at[-1], pl.Slice) else inside
    return plgpu.load(ref.at[at], mask=mask, other=0.0).astype(jnp.float32)


def _store(ref: Any, at: tuple[Any, ...], value: jax.Array, inside: jax.Array) -> None:
    plgpu.store(ref.at[at], value.astype(ref.dtype), mask=jnp.broadcast_to(inside, value.shape))


def _call(
    name: str,
    program: Callable[..., None],
    out: jax.ShapeDtypeStruct,
    grid: tuple[int, ...],
    block: int,
    interpret: bool,
) -> Callable[..., jax.Array]:
    options = plgpu.CompilerParams(num_warps=block // 32, num_stages=1)
    return pl.pallas_call(program, out_shape=out, grid=grid, interpret=interpret, compiler_params=options, name=name)
