"""Feature pyramid (arXiv 1612.03144), equal to mmdetection's FPN. Parameters have mmdetection's names."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from focalnet_jax.errors import UserError
from focalnet_jax.model.heads.convolutions import ConvBlock, xavier
from focalnet_jax.model.summary import Row, count
from focalnet_jax.ops.compute import Compute

SOURCES = ("pool", "input", "output")


class FPN(nnx.Module):
    """Fuses maps from the smallest to the largest, and adds smaller maps.

    Args:
      inputs: number of channels of each map, from the largest map to the smallest.
      channels: number of channels of the results.
      extra: number of maps that are added, each half as large as the one before.
      source: how the added maps are computed. "pool": from every second position of the map before. "input": by 3x3
        convolutions with stride 2, of which the first receives the last input. "output": by the same convolutions, but
        the first receives the last result.
      compute: dtype and precision of the convolutions.
      rngs: random streams for the initialisation.

    Raises:
      UserError: `source` is unknown.
    """

    def __init__(
        self,
        inputs: Sequence[int],
        channels: int,
        extra: int = 0,
        source: str = "pool",
        *,
        compute: Compute,
        rngs: nnx.Rngs,
    ):
        if source not in SOURCES:
            raise UserError(f"source is {source!r}; expected {', '.join(SOURCES[:-1])} or {SOURCES[-1]}")

        def block(width: int, kernel: int, stride: int = 1) -> ConvBlock:
            return ConvBlock(width, channels, kernel, init=xavier, compute=compute, rngs=rngs, stride=stride)

        self.extra, self.source = extra, source
        self.lateral_convs = nnx.List([block(width, 1) for width in inputs])
        convs = [block(channels, 3) for _ in inputs]
        if source != "pool":
            widths = [inputs[-1] if source == "input" else channels, *[channels] * (extra - 1)]
            convs += [block(width, 3, stride=2) for width in widths[:extra]]
        self.fpn_convs = nnx.List(convs)

    def __call__(self, maps: Sequence[jax.Array]) -> list[jax.Array]:
        """Returns a map `[B, H, W, D]` for each of `maps`, `[B, H, W, C]`, followed by the added maps.

        Args:
          maps: maps from the largest to the smallest; each has half the size of the one before, rounded up.
        """
        laterals = [block(x) for block, x in zip(self.lateral_convs, maps, strict=True)]
        for index in reversed(range(len(maps) - 1)):
            laterals[index] += doubled(laterals[index + 1], laterals[index].shape[1:3])
        found = [block(x) for block, x in zip(self.fpn_convs, laterals, strict=False)]
        if self.source == "pool":
            for _ in range(self.extra):
                found.append(found[-1][:, ::2, ::2])
            return found
        x = maps[-1] if self.source == "input" else found[-1]
        for block in list(self.fpn_convs)[len(maps) :]:
            x = block(x)
            found.append(x)
        return found


def doubled(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Resizes maps to about twice their size like `torch.nn.functional.interpolate` with `mode="nearest"`.

    Args:
      x: maps `[B, h, w, C]`.
      size: height and width of the result: `2h` or `2h - 1`, and `2w` or `2w - 1`. For these sizes, PyTorch repeats
        each position, and leaves out the last repetition if the size is odd.

    Returns:
      Maps `[B, H, W, C]`.

    Raises:
      ValueError: `size` has other values.
    """
    if any(-(-length // 2) != half for length, half in zip(size, x.shape[1:3], strict=True)):
        raise ValueError(
            f"a map of {x.shape[1]}x{x.shape[2]} cannot be doubled to {size[0]}x{size[1]}; expected twice each side, "
            "or one less"
        )
    for axis in (1, 2):
        x = jnp.repeat(x, 2, axis=axis)
    return x[:, : size[0], : size[1]]


def fpn_row(neck: FPN, sizes: Sequence[tuple[int, int]]) -> tuple[Row, list[int]]:
    """Returns the row of a summary, and the number of positions of each result.

    Args:
      neck: the FPN.
      sizes: height and width of each input.
    """
    sizes = list(sizes)
    for _ in range(neck.extra):
        sizes.append(tuple(-(-side // 2) for side in sizes[-1]))
    positions = [height * width for height, width in sizes]
    laterals, outputs = (list(zip(positions, blocks, strict=False)) for blocks in (neck.lateral_convs, neck.fpn_convs))
    macs = sum(places * block.conv.kernel.size for places, block in laterals + outputs)
    return Row("neck", (*sizes[0], neck.fpn_convs[0].conv.kernel.shape[-1]), count(neck), macs), positions
