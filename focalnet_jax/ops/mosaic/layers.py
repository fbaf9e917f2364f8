"""A kernel of fused pointwise layers: its grid, and the blocks of its arrays (used by ops/pointwise.py)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from focalnet_jax.ops.mosaic.numbers import CHANNELS, EXAMPLES
from focalnet_jax.ops.mosaic.passes import examples_first, rows_first
from focalnet_jax.ops.mosaic.plan import cores

Weights = dict[str, dict[str, jax.Array]]  # by layer and parameter: matrices `[C, D]`, vectors `[C]`
Maps = Sequence[jax.Array]
Refs = Sequence[Any]
# Choices for the number of elements of the widest layer's output per kernel instance, and the bytes of fast memory that
# an instance needs per bfloat16 element: the fewest with which FocalNet's layers compile, plus a tenth.
_NUMBERS = (2**19, 2**18, 2**17)
_BYTES = 28
_FEWEST, _MOST = 64, 1024  # rows per kernel instance


@dataclass(frozen=True)
class Layers:
    """Layers that are fused into one kernel.

    `function(weights, *maps, *shared, *constants)` computes the layers for rows `[R, C]` float32, and returns a tuple
    of such rows. The weights are matrices in the dtype of the maps, and vectors `[1, C]` float32. `shared` and
    `constants` have the same values at all positions of an example, and are repeated for each row.
    """

    function: Callable[..., tuple[jax.Array, ...]]
    channels: tuple[int, ...]  # number of channels of each result
    name: str
    vmem: int  # bytes of fast memory
    first_too: bool = False  # also return the first map, as the last result, whose gradient the kernel adds
    interpret: bool = False  # interpret the kernel step by step, on any platform


def elements_per_instance(weights: Weights, itemsize: int, vmem: int) -> int:
    """Returns the number of elements of the widest layer's output per kernel instance.

    This is the largest number in `_NUMBERS` with which the instance and the weights fit in `vmem` bytes of fast memory,
    or 0 if none fits.
    """
    # Bytes per weight of the sums of gradients. Each of several cores adds up its own sums, and two of these must fit:
    # one is written while the next is begun.
    sums = 4 * (2 if cores() > 1 else 1)
    kept = sum(map(_in_registers, jax.tree.leaves(weights))) * (itemsize + sums)
    return next((numbers for numbers in _NUMBERS if kept + numbers * _BYTES * itemsize // 2 <= vmem), 0)


def _in_registers(leaf: jax.Array) -> int:
    """Returns the number of elements of a matrix or vector after padding to whole registers."""
    *rows, columns = leaf.shape
    return pl.cdiv(columns, CHANNELS) * CHANNELS * pl.cdiv(rows[0] if rows else 1, 2 * EXAMPLES) * 2 * EXAMPLES


class Call:
    """A kernel for maps `[B, H, W, C]`: its grid, and the blocks of arrays that a kernel instance computes.

    The grid is (parts, groups of examples, steps over positions). Each part runs on one core and has its own sums of
    gradients. A kernel instance computes `self.some` positions of `self.examples` examples.
    """

    def __init__(self, layers: Layers, weights: Weights, maps: Maps):
        self.layers, self.dtype = layers, maps[0].dtype
        self.given, self.height, self.width, _ = maps[0].shape
        self.weights = jax.tree.map(lambda leaf: leaf if leaf.ndim == 2 else leaf[None], weights)
        widest = max([*layers.channels, *(leaf.shape[-1] for leaf in jax.tree.leaves(weights))])
        numbers = elements_per_instance(weights, self.dtype.itemsize, layers.vmem)
        rows = min(max(numbers // widest, _FEWEST), _MOST)
        self.all, self.places = pl.cdiv(self.given, EXAMPLES) * EXAMPLES, self.height * self.width
        # Examples per kernel instance (a whole number of registers), then positions per kernel instance.
        possible = [e for e in range(EXAMPLES, min(self.all, rows) + 1, EXAMPLES) if self.all % e == 0]
        self.examples = max((e for e in possible if self.all // e % cores() == 0), default=possible[-1])
        most = max(rows // self.examples, 1)
        steps = pl.cdiv(self.places, most)
        dividing = [each for each in range(most // 2 + 1, most + 1) if self.places % each == 0]
        self.some = max(dividing, default=pl.cdiv(self.places, steps))
        steps, groups = pl.cdiv(self.places, self.some), self.all // self.examples
        # Each core computes a part of the examples, or else of the positions, and adds up its own sums.
        self.of_examples = cores() if groups % cores() == 0 else 1
        self.of_places = cores() if steps % cores() == 0 and self.of_examples == 1 else 1
        self.parts = self.of_examples * self.of_places
        self.groups, self.steps = groups // self.of_examples, steps // self.of_places

    def place(self, part: jax.Array, step: jax.Array) -> jax.Array:
        """Returns the index of a kernel instance's block of positions, from its indices in the grid."""
        return part * self.steps + step if self.of_places > 1 else step

    def group(self, part: jax.Array, example: jax.Array) -> jax.Array:
        """Returns the index of a kernel instance's group of examples, from its indices in the grid."""
        return part * self.groups + example if self.of_examples > 1 else example

    def map(self, channels: int) -> tuple[jax.ShapeDtypeStruct, pl.BlockSpec]:
        """Returns the shape of a map, `[positions, examples, C]`, and the block of a kernel instance."""
        spec = pl.BlockSpec(
            (self.some, self.examples, channels),
            lambda part, example, step: (self.place(part, step), self.group(part, example), 0),
        )
        return jax.ShapeDtypeStruct((self.places, self.all, channels), self.dtype), spec

    def sum_of(self, leaf: jax.Array) -> tuple[jax.ShapeDtypeStruct, pl.BlockSpec]:
        """Returns the shape of a weight's gradient, `[parts, ...]`, and the block that a kernel instance adds to."""
        spec = pl.BlockSpec((1, *leaf.shape), lambda part, example, step: (part, 0, 0))
        return jax.ShapeDtypeStruct((self.parts, *leaf.shape), jnp.float32), spec

    def sum_per_example(self, channels: int) -> tuple[jax.ShapeDtypeStruct, pl.BlockSpec]:
        """Returns the shape of a shared array's gradient, and the block that a kernel instance adds to.

        The shape is `[parts, examples, n]`, with one part for each part of the positions.
        """
        spec = pl.BlockSpec(
            (1, self.examples, channels),
            lambda part, example, step: (part if self.of_places > 1 else 0, self.group(part, example), 0),
        )
        return jax.ShapeDtypeStruct((self.of_places, self.all, channels), jnp.float32), spec

    def rows_of(self, ref: Any, *, inside: bool = False) -> jax.Array:
        """Returns the rows `[R, C]` float32 of a block; if `inside` is set, rows past the last position are zeros."""
        x = ref[...].astype(jnp.float32)
        if inside and self.places % self.some:
            first = self.place(pl.program_id(0), pl.program_id(2)) * self.some
            place = first + lax.broadcasted_iota(jnp.int32, x.shape, 0)
            x = jnp.where(place < self.places, x, 0.0)
        return x.reshape(-1, x.shape[-1])

    def each_row(self, x: jax.Array) -> jax.Array:
        """Repeats values of a kernel instance's examples, `[examples, n]`, at each position: `[R, n]`."""
        return jnp.broadcast_to(x, (self.some, *x.shape)).reshape(-1, x.shape[-1])

    def weights_of(self, refs: Refs) -> Weights:
        """Loads the weights, and returns them in the tree that the layers' function receives."""
        return jax.tree.unflatten(jax.tree.structure(self.weights), [ref[...] for ref in refs])

    def run(
        self,
        program: Callable[..., None],
        inputs: Sequence[Maps],
        outputs: Sequence[Sequence[tuple[jax.ShapeDtypeStruct, pl.BlockSpec]]],
        suffix: str = "",
    ) -> list[tuple[jax.Array, ...]]:
        """Runs the kernel and returns its groups of outputs.

        Args:
          program: body of the kernel; it receives references to the weights, and to each group of inputs and outputs.
          inputs: groups of inputs: maps `[B, H, W, C]`, and values per example, `[B, n]`.
          outputs: groups of shapes and blocks of the outputs.
          suffix: end of the kernel's name.
        """
        weights = jax.tree.leaves(self.weights)
        given = [x for group in inputs for x in group]
        shapes, specs = zip(*(each for group in outputs for each in group), strict=True)
        lengths = list(map(len, (weights, *inputs, *outputs)))
        # The name has all shapes, so that profiles and cost estimates can tell kernels apart.
        described = "x".join(map(str, (self.given, self.height, self.width, *(x.shape[-1] for x in given))))
        results = pl.pallas_call(
            lambda *refs: program(*_grouped(refs, lengths)),
            name=f"{self.layers.name}{suffix}_{described}",
            grid=(self.parts, self.groups, self.steps),
            in_specs=[*map(_whole, weights), *map(self._spec, given)],
            out_specs=specs,
            out_shape=shapes,
            interpret=self.layers.interpret,
            compiler_params=pltpu.CompilerParams(
                dimension_semantics=("parallel", "arbitrary", "arbitrary"), vmem_limit_bytes=self.layers.vmem
            ),
        )(*weights, *map(self._by_place, given))
        return _grouped(results, lengths[-len(outputs) :])

    def _spec(self, x: jax.Array) -> pl.BlockSpec:
        if x.ndim == 4:
            return self.map(x.shape[-1])[1]
        return pl.BlockSpec((self.examples, x.shape[-1]), lambda part, example, step: (self.group(part, example), 0))

    def _by_place(self, x: jax.Array) -> jax.Array:
        if x.ndim == 2:
            return jnp.pad(x, ((0, self.all - self.given), (0, 0)))
        return rows_first(x).reshape(self.places, self.all, x.shape[-1])

    def by_example(self, x: jax.Array) -> jax.Array:
        """Converts a map from the layout in the kernel, `[positions, examples, C]`, to `[B, H, W, C]`."""
        return examples_first(x.reshape(self.height, self.width, self.all, x.shape[-1]), self.given)


def _grouped(each: Sequence[Any], lengths: Sequence[int]) -> list[tuple[Any, ...]]:
    """Splits a sequence into groups of these lengths."""
    rest = iter(each)
    return [tuple(itertools.islice(rest, length)) for length in lengths]


def _whole(leaf: jax.Array) -> pl.BlockSpec:
    """Returns the block of a weight: every kernel instance receives the whole weight."""
    return pl.BlockSpec(leaf.shape, lambda part, example, step: (0, 0))
