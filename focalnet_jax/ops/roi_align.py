"""RoIAlign (arXiv 1703.06870): averages over the bins of regions of maps, equal to torchvision's `aligned=True`.

The value of a bin is the average of the bilinearly interpolated map at the points of a grid, the samples. It is
therefore a weighted sum over rows and columns of the map, with separate weights for the two axes (`axis_weights`).
Implementations:

- "matrix" multiplies whole maps by the weights, in a few large products, for accelerators;
- "tiles" multiplies only the tiles of a map that a region touches, one after another, for CPUs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from focalnet_jax.distributed.activations import on_own_examples
from focalnet_jax.ops.rules import with_rule

IMPLEMENTATIONS = ("matrix", "tiles")
_TILE = 16  # rows and columns of a tile
_CHUNK = 64  # regions per image that "matrix" computes at once; intermediate results grow with it


def choose_roi_align(platform: str) -> str:
    """Returns the name of the implementation for a platform.

    On CPUs, "tiles" is faster (benchmarks/roi_align.py). Accelerators were not measured: "matrix" is chosen for them,
    because it computes many regions in each product.
    """
    return "tiles" if platform == "cpu" else "matrix"


def assign_levels(boxes: jax.Array, levels: int, finest: float = 56.0) -> jax.Array:
    """Returns the level of the pyramid, `[...]` int32, of boxes `[..., 4]` (arXiv 1612.03144, equation 1).

    Args:
      boxes: boxes in pixels.
      levels: number of levels.
      finest: boxes have level 0 if the square root of their area is below twice this number of pixels.
    """
    sides = jnp.maximum(boxes[..., 2:] - boxes[..., :2], 0)
    scale = jnp.sqrt(sides[..., 0] * sides[..., 1])
    return jnp.clip(jnp.floor(jnp.log2(scale / finest + 1e-6)), 0, levels - 1).astype(jnp.int32)


def axis_weights(
    start: jax.Array,
    stop: jax.Array,
    bins: int,
    length: int | jax.Array,
    samples: int,
    first: int | jax.Array,
    count: int,
) -> jax.Array:
    """Returns the weight of each position of a map in each bin of a region, `[..., bins, count]` float32, for one axis.

    The centre of cell i has the position i, so edges in pixels are divided by the stride, and 0.5 is subtracted.
    Samples at most one cell outside the map have the value at its border. Samples further outside are 0.

    Args:
      start: position where each region begins, `[...]`.
      stop: position where each region ends.
      bins: number of bins of a region.
      length: number of cells of the map.
      samples: number of samples per bin; 0 means the cells per bin, rounded up, at most `length`.
      first: first position whose weights are computed, `[...]`.
      count: number of positions whose weights are computed.
    """
    start, stop = (jax.lax.stop_gradient(edge).astype(jnp.float32) for edge in (start, stop))
    bin_size = (stop - start) / bins
    adaptive = jnp.minimum(jnp.ceil(bin_size), length).astype(jnp.int32)
    number = jnp.full(start.shape, samples, jnp.int32) if samples else adaptive
    begin = start[..., None] + jnp.arange(bins) * bin_size[..., None]  # [..., bins]
    positions = (jnp.asarray(first)[..., None] + jnp.arange(count)).astype(jnp.float32)[..., None, :]

    def add(sample: int | jax.Array, total: jax.Array) -> jax.Array:
        place = begin + ((sample + 0.5) * bin_size / number)[..., None]
        exists = (place >= -1) & (place <= length) & (sample < number)[..., None]
        nearness = 1 - jnp.abs(jnp.clip(place, 0, length - 1)[..., None] - positions)  # [..., bins, count]
        return total + jnp.where(exists[..., None], jnp.maximum(nearness, 0), 0)

    zeros = jnp.zeros((*begin.shape, count), jnp.float32)
    total = jax.lax.fori_loop(0, samples or jnp.max(number, initial=0), add, zeros)
    return total / jnp.maximum(number, 1)[..., None, None]


def roi_align(
    maps: Sequence[jax.Array],
    boxes: jax.Array,
    strides: Sequence[int],
    size: int,
    *,
    samples: int = 0,
    implementation: str,
) -> jax.Array:
    """Returns averages over `size` x `size` bins of each box, `[B, N, size, size, C]` in the dtype of the first map.

    `assign_levels` selects the level whose map is averaged. The gradient with respect to boxes is 0, as in torchvision.

    Args:
      maps: map of each level, `[B, h, w, C]`.
      boxes: boxes in pixels, `[B, N, 4]`. With `samples=0`, the averages of boxes without area are 0.
      strides: pixels per cell of each level.
      size: number of bins along each axis.
      samples: number of samples per bin along each axis; 0 means the cells per bin, rounded up, as in mmdetection.
      implementation: one of `IMPLEMENTATIONS`, see `choose_roi_align`.
    """
    if not boxes.shape[1]:
        return jnp.zeros((*boxes.shape[:2], size, size, maps[0].shape[-1]), maps[0].dtype)
    boxes = jax.lax.stop_gradient(boxes).astype(jnp.float32)
    levels = assign_levels(boxes, len(maps))
    compute = {"matrix": _matrix, "tiles": _tiles}[implementation]
    return compute(tuple(maps), boxes, levels, tuple(strides), size, samples)


def _edges(boxes: jax.Array, stride: int) -> jax.Array:
    """Returns x1, y1, x2, y2 `[..., 4]` as indices into a map; index 0 is the centre of the first cell."""
    return boxes * (1 / stride) - 0.5


def _product(equation: str, a: jax.Array, b: jax.Array) -> jax.Array:
    highest = jax.lax.Precision.HIGHEST
    return jnp.einsum(equation, a, b, precision=highest, preferred_element_type=jnp.float32)


def _bins(rows: jax.Array, columns: jax.Array, x: jax.Array) -> jax.Array:
    """Returns the bins `[B, n, size, size, C]` float32 of n regions per image.

    The arrays in the products have three axes, and barriers keep other operations out of the products, because the
    compiler for TPUs takes minutes for a product with more axes or with additions.

    Args:
      rows: weights of the map's rows, `[B, n, size, h]`.
      columns: weights of the map's columns, `[B, n, size, w]`.
      x: map `[B, h, w, C]`.
    """
    barrier = jax.lax.optimization_barrier
    (batch, count, size, height), (width, channels) = rows.shape, x.shape[2:]
    flat = barrier((rows.reshape(batch, -1, height), x.reshape(batch, height, -1)))
    partly = barrier(_product("bph,bhv->bpv", *flat).astype(x.dtype)).reshape(-1, width, channels)
    each = jnp.broadcast_to(columns[:, :, None], (batch, count, size, size, width)).reshape(-1, size, width)
    bins = barrier(_product("gqw,gwc->gqc", *barrier((each, partly))))
    return bins.reshape(batch, count, size, size, channels)


def _matrix(
    maps: tuple[jax.Array, ...],
    boxes: jax.Array,
    levels: jax.Array,
    strides: tuple[int, ...],
    size: int,
    samples: int,
) -> jax.Array:
    batch, count = levels.shape
    chunk = min(_CHUNK, count)
    padding = (0, -count % chunk)
    boxes = jnp.pad(boxes, ((0, 0), padding, (0, 0)))
    levels = jnp.pad(levels, ((0, 0), padding), constant_values=-1)

    @jax.checkpoint  # the weights and products of all chunks would need much memory
    def compute(given: tuple[jax.Array, jax.Array]) -> jax.Array:
        boxes, levels = given
        total = 0.0
        for level, (x, stride) in enumerate(zip(maps, strides, strict=True)):
            edges = jnp.where((levels == level)[..., None], _edges(boxes, stride), -2)  # samples at -2 are 0
            height, width = x.shape[1:3]
            rows = axis_weights(edges[..., 1], edges[..., 3], size, height, samples, 0, height).astype(x.dtype)
            columns = axis_weights(edges[..., 0], edges[..., 2], size, width, samples, 0, width).astype(x.dtype)
            total += _bins(rows, columns, x)
        return total.astype(maps[0].dtype)

    chunks = (x.reshape(batch, -1, chunk, *x.shape[2:]).swapaxes(0, 1) for x in (boxes, levels))
    out = jax.lax.map(compute, tuple(chunks)).swapaxes(0, 1)  # [B, chunks, chunk, size, size, C]
    return out.reshape(batch, -1, *out.shape[3:])[:, :count]


def _tile_averages(
    maps: tuple[jax.Array, ...],
    boxes: jax.Array,
    levels: jax.Array,
    strides: tuple[int, ...],
    size: int,
    samples: int,
) -> jax.Array:
    out = jnp.zeros((*levels.shape, size, size, maps[0].shape[-1]), jnp.float32)
    for level, (x, stride) in enumerate(zip(maps, strides, strict=True)):

        def add(tile: Tile, out: jax.Array, x: jax.Array = x) -> jax.Array:
            shape = (1, len(tile.rows[0]), len(tile.columns[0]), x.shape[3])
            values = jax.lax.dynamic_slice(x, tile.corner, shape)[0].astype(jnp.float32)
            bins = _product("pwc,qw->pqc", _product("ph,hwc->pwc", tile.rows, values), tile.columns)
            return _added(out, bins[None, None], (*tile.box, 0, 0, 0))

        out = _for_each_tile(x.shape[1:3], boxes, levels == level, stride, size, samples, add, out)
    return out.astype(maps[0].dtype)


def _tile_gradients(
    maps: tuple[jax.Array, ...],
    boxes: jax.Array,
    levels: jax.Array,
    gradient: jax.Array,
    strides: tuple[int, ...],
    size: int,
    samples: int,
) -> tuple[jax.Array, ...]:
    gradients = []
    for level, (x, stride) in enumerate(zip(maps, strides, strict=True)):

        def add(tile: Tile, out: jax.Array) -> jax.Array:
            shape = (1, 1, *gradient.shape[2:])
            bins = jax.lax.dynamic_slice(gradient, (*tile.box, 0, 0, 0), shape)[0, 0].astype(jnp.float32)
            values = _product("ph,pwc->hwc", tile.rows, _product("pqc,qw->pwc", bins, tile.columns))
            return _added(out, values[None], tile.corner)

        zeros = jnp.zeros(x.shape, jnp.float32)
        found = _for_each_tile(x.shape[1:3], boxes, levels == level, stride, size, samples, add, zeros)
        gradients.append(found.astype(x.dtype))
    return tuple(gradients)


# Each device computes its own images. The compiler would gather the maps of all images for each tile.
def _tiles_forward(maps: tuple[jax.Array, ...], boxes: jax.Array, levels: jax.Array, *options: Any) -> jax.Array:
    return on_own_examples(lambda *given: _tile_averages(*given, *options))(maps, boxes, levels)


def _tiles_backward(
    strides: tuple[int, ...], size: int, samples: int, saved: tuple[Any, ...], gradient: jax.Array
) -> tuple[Any, ...]:
    options = strides, size, samples
    gradients = on_own_examples(lambda *given: _tile_gradients(*given, *options))
    return gradients(*saved, gradient), None, None


_tiles = with_rule(_tiles_forward, (3, 4, 5))
_tiles.defvjp(lambda *arguments: (_tiles.fun(*arguments), arguments[:3]), _tiles_backward)


def _added(array: jax.Array, values: jax.Array, corner: tuple[Any, ...]) -> jax.Array:
    """Returns the array with values added to the slice that begins at `corner`."""
    return jax.lax.dynamic_update_slice(array, jax.lax.dynamic_slice(array, corner, values.shape) + values, corner)


class Tile:
    """A tile of a map that a box touches.

    Attributes:
      box: index of the image, and index of the box in the image.
      corner: index of the tile's first element in the maps `[B, h, w, C]`.
      rows: weights of the tile's rows in the bins, `[size, rows]`.
      columns: weights of the tile's columns in the bins, `[size, columns]`.
    """

    def __init__(self, box: tuple[Any, ...], corner: tuple[Any, ...], rows: jax.Array, columns: jax.Array):
        self.box, self.corner, self.rows, self.columns = box, corner, rows, columns


def _for_each_tile(
    shape: tuple[int, int],
    boxes: jax.Array,
    used: jax.Array,
    stride: int,
    size: int,
    samples: int,
    add: Callable[[Tile, jax.Array], jax.Array],
    out: jax.Array,
) -> jax.Array:
    """Returns `out` after `out = add(tile, out)` for each box that is `used`, and each tile that the box touches."""
    sides = tuple(min(_TILE, length) for length in shape)
    order = jnp.argsort(~used.ravel(), stable=True)
    edges = _edges(boxes, stride).reshape(-1, 2, 2)[..., ::-1]  # begin and end, row and column
    # A sample between two cells uses both. One outside the map uses the cell at the border.
    begins = jnp.clip(jnp.floor(edges.min(axis=1)), 0, jnp.array(shape) - 1).astype(jnp.int32)
    ends = jnp.clip(jnp.floor(edges.max(axis=1)) + 1, 0, jnp.array(shape) - 1).astype(jnp.int32)
    counts = (ends - begins) // jnp.array(sides) + 1

    def along(axis: int, place: jax.Array, index: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the first position of a tile along an axis, and the weights of its positions."""
        begin = begins[place, axis] + index * sides[axis]
        first = jnp.minimum(begin, shape[axis] - sides[axis])
        start, stop = edges[place, 0, axis], edges[place, 1, axis]
        weights = axis_weights(start, stop, size, shape[axis], samples, first, sides[axis])
        return first, jnp.where(first + jnp.arange(sides[axis]) >= begin, weights, 0)  # others: the previous tile's

    def box(index: jax.Array, out: jax.Array) -> jax.Array:
        place = order[index]
        image_and_box = place // boxes.shape[1], place % boxes.shape[1]

        def row(i: jax.Array, out: jax.Array) -> jax.Array:
            top, rows = along(0, place, i)

            def column(j: jax.Array, out: jax.Array) -> jax.Array:
                left, columns = along(1, place, j)
                return add(Tile(image_and_box, (image_and_box[0], top, left, 0), rows, columns), out)

            return jax.lax.fori_loop(0, counts[place, 1], column, out)

        return jax.lax.fori_loop(0, counts[place, 0], row, out)

    return jax.lax.fori_loop(0, used.sum(), box, out)
