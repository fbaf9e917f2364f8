"""Convolutions with kernels of 3x3 on CPUs by Winograd's algorithm F(2x2, 3x3): 16 instead of 36 products per tile.

A tile is 2x2 pixels of the output. Source: Lavin and Gray, Fast Algorithms for Convolutional Neural Networks
(arXiv 1509.09308), section 4.1. C++ computes the matrix products, XLA the sums before and after them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from focalnet_jax.ops import native

_BYTES = 2**26  # size limit of the 16 transformed maps of a part, so that they stay in a cache
_FEWEST_ROWS, _FEWEST_COLUMNS = 128, 16  # below these sizes, packing the kernel costs more time than it saves
Maps = list[list[jax.Array]]  # matrix of arrays


class _Chunks(NamedTuple):
    """Parts of a batch that are computed one after another.

    Attributes:
      images: number of images per part, a divisor of B.
      rows: rows of tiles per part.
      columns: columns of tiles.
      strips: number of parts per group of images.
    """

    images: int
    rows: int
    columns: int
    strips: int

    def places(self, batch: int) -> tuple[jax.Array, jax.Array]:
        """Returns the first image and the first row of pixels of each part."""
        part = jax.lax.iota(jnp.int32, batch // self.images * self.strips)
        return part // self.strips * self.images, part % self.strips * 2 * self.rows


def _chunks(x: jax.Array, channels: int) -> _Chunks:
    batch, height, width, _ = x.shape
    rows, columns = -(-height // 2), -(-width // 2)
    fit = max(1, _BYTES // (16 * 4 * columns * channels))  # rows of tiles
    if fit < rows:
        strips = -(-rows // fit)
        return _Chunks(1, -(-rows // strips), columns, strips)
    images = max(count for count in range(1, batch + 1) if batch % count == 0 and (count == 1 or count * rows <= fit))
    return _Chunks(images, rows, columns, 1)


def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Returns the convolution `[B, H, W, O]` of `x` `[B, H, W, I]` with `kernel` `[3, 3, I, O]`, all float32."""
    batch, height, width, _ = x.shape
    chunks = _chunks(x, max(kernel.shape[2:]))
    padded, factors = _padded(x, chunks), _kernel_maps(kernel)

    def part(place: tuple[jax.Array, jax.Array]) -> jax.Array:
        maps = _input_maps(_cut(padded, place, chunks, border=2))
        return _outputs([[_product(each, factors[a][b]) for b, each in enumerate(row)] for a, row in enumerate(maps)])

    found = jax.lax.map(part, chunks.places(batch))  # [parts, images, 2 rows, 2 columns, O]
    found = found.reshape(-1, chunks.strips, *found.shape[1:]).swapaxes(1, 2)
    return found.reshape(batch, -1, *found.shape[-2:])[:, :height, :width]


def kernel_gradient(x: jax.Array, cotangent: jax.Array) -> jax.Array:
    """Returns the gradient of the kernel `[3, 3, I, O]`.

    Args:
      x: input of the convolution `[B, H, W, I]` float32.
      cotangent: gradient of the output `[B, H, W, O]` float32.
    """
    chunks = _chunks(x, max(x.shape[-1], cotangent.shape[-1]))
    padded, ends = _padded(x, chunks), _padded(cotangent, chunks)[:, 1:, 1:]

    def add(sums: Maps, place: tuple[jax.Array, jax.Array]) -> tuple[Maps, None]:
        maps = _input_maps(_cut(padded, place, chunks, border=2))
        others = _output_maps(_cut(ends, place, chunks, border=0))
        products = jax.tree.map(native.transposed_product, maps, others)
        return jax.tree.map(jnp.add, sums, products), None

    zeros = jnp.zeros((x.shape[-1], cotangent.shape[-1]), jnp.float32)
    sums, _ = jax.lax.scan(add, [[zeros] * 4] * 4, chunks.places(x.shape[0]))

    def transformed(k: Sequence[jax.Array]) -> list[jax.Array]:  # transpose of the transform in `_kernel_maps`
        half, other = (k[1] + k[2]) / 2, (k[1] - k[2]) / 2
        return [k[0] + half, other, half + k[3]]

    return jnp.asarray(_along_both(transformed, sums))


def _padded(x: jax.Array, chunks: _Chunks) -> jax.Array:
    """Pads maps with zeros: one pixel above and on the left, and up to whole parts below and on the right."""
    height, width = x.shape[1:3]
    below, right = 2 * chunks.rows * chunks.strips + 1 - height, 2 * chunks.columns + 1 - width
    return jnp.pad(x, ((0, 0), (1, below), (1, right), (0, 0)))


def _cut(padded: jax.Array, place: tuple[jax.Array, jax.Array], chunks: _Chunks, *, border: int) -> jax.Array:
    """Returns the pixels of one part: along each axis, `border` more than the outputs of the part."""
    image, row = place
    sizes = chunks.images, 2 * chunks.rows + border, 2 * chunks.columns + border, padded.shape[-1]
    return jax.lax.dynamic_slice(padded, (image, row, 0, 0), sizes)


def _kernel_maps(kernel: jax.Array) -> Maps:
    """Returns the 4x4 transformed matrices `[I, O]` of a kernel `[3, 3, I, O]`."""

    def transformed(k: Sequence[jax.Array]) -> list[jax.Array]:
        return [k[0], (k[0] + k[1] + k[2]) / 2, (k[0] - k[1] + k[2]) / 2, k[2]]

    return _along_both(transformed, [list(row) for row in kernel])


def _input_maps(x: jax.Array) -> Maps:
    """Returns the 4x4 transformed maps `[n, rows, columns, I]` of pixels `[n, 2 rows + 2, 2 columns + 2, I]`."""

    def transformed(d: Sequence[jax.Array]) -> list[jax.Array]:
        return [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]]

    return _along_both(transformed, [[_every_other(x, row, column, 4) for column in range(4)] for row in range(4)])


def _output_maps(y: jax.Array) -> Maps:
    """Applies the transpose of `_outputs` to `[n, 2 rows, 2 columns, O]`; returns 4x4 maps `[n, rows, columns, O]`."""

    def transformed(d: Sequence[jax.Array]) -> list[jax.Array]:
        return [d[0], d[0] + d[1], d[0] - d[1], -d[1]]

    return _along_both(transformed, [[_every_other(y, row, column, 2) for column in range(2)] for row in range(2)])


def _outputs(products: Maps) -> jax.Array:
    """Returns the output pixels `[n, 2 rows, 2 columns, O]` of 4x4 products `[n, rows, columns, O]`."""

    def transformed(m: Sequence[jax.Array]) -> list[jax.Array]:
        return [m[0] + m[1] + m[2], m[1] - m[2] - m[3]]

    pixels = jnp.asarray(_along_both(transformed, products)).transpose(2, 3, 0, 4, 1, 5)  # [n, rows, 2, columns, 2, O]
    images, rows, _, columns, _, channels = pixels.shape
    return pixels.reshape(images, 2 * rows, 2 * columns, channels)


def _along_both(transform: Callable[[Sequence[jax.Array]], list[jax.Array]], maps: Maps) -> Maps:
    """Applies a transform along the columns and along the rows of a matrix of maps."""
    rows = [transform(row) for row in maps]
    return [list(row) for row in zip(*(transform(column) for column in zip(*rows, strict=True)), strict=True)]


def _every_other(x: jax.Array, row: int, column: int, size: int) -> jax.Array:
    """Returns the pixel at this row and column of each tile of `size` x `size` pixels; tiles are 2 pixels apart."""
    height, width = (length - size + 2 for length in x.shape[1:3])
    return x[:, row : row + height : 2, column : column + width : 2]


def _product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    if math.prod(x.shape[:-1]) >= _FEWEST_ROWS and kernel.shape[1] >= _FEWEST_COLUMNS:
        return native.product(x, kernel)
    return jnp.matmul(x, kernel, precision="highest")
