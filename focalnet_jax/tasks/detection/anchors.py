"""Anchors of all levels of a feature pyramid."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np

from focalnet_jax.ops.boxes import anchor_sides, grid_anchors, inside_padded
from focalnet_jax.tasks.detection.options import PAD

_SCALE = 8  # square root of the area of an anchor, in strides


@dataclass(frozen=True)
class Anchors:
    """Anchors at each position of each level, one for each aspect ratio.

    Attributes:
      canvas: height and width of the padded images.
      levels: number of levels.
      first: stride of the first level, in pixels. Each further level has twice the stride of the level before it.
      ratios: aspect ratios of the anchors, height divided by width.
    """

    canvas: tuple[int, int]
    levels: int
    first: int = 8
    ratios: tuple[float, ...] = (1.0,)

    @property
    def strides(self) -> tuple[int, ...]:
        """Stride of each level in pixels."""
        return tuple(self.first << level for level in range(self.levels))

    @cached_property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """Height and width of the map of each level."""
        return tuple(tuple(-(-side // stride) for side in self.canvas) for stride in self.strides)

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """Number of anchors of each level."""
        return tuple(height * width * len(self.ratios) for height, width in self.sizes)

    @cached_property
    def boxes(self) -> np.ndarray:
        """The anchors of all levels, `[A, 4]` float32, in the order level, row, column, ratio."""
        levels = zip(self.sizes, self.strides, strict=True)
        return np.concatenate(
            [grid_anchors(size, stride, anchor_sides(stride, [_SCALE], self.ratios)) for size, stride in levels]
        )

    def inside(self, size: jax.Array) -> jax.Array:
        """Returns which anchors are used for an image of height and width `size` `[2]`, `[A]` bool.

        These are the anchors at positions inside the image after its sides are rounded up to multiples of `PAD`.
        """
        padded = -(-size // PAD) * PAD  # mmdetection uses no anchors outside of the padded image
        levels = zip(self.sizes, self.strides, strict=True)
        positions = jnp.concatenate([inside_padded(each, stride, padded) for each, stride in levels])
        return jnp.repeat(positions, len(self.ratios), total_repeat_length=sum(self.counts))
