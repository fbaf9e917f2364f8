"""Predicts the classes of all pixels of images of different sizes, like mmsegmentation 0.x.

Logits are resized bilinearly to the input of the model, and from there to the original size of the image. Both steps
are linear along each axis, so one matrix per axis combines them. The original size is a value in the batch, not a
shape, so images of different sizes share a compiled program.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from focalnet_jax.data.masks import IGNORED
from focalnet_jax.data.normalization import normalize
from focalnet_jax.ops.resize import bilinear
from focalnet_jax.tasks.segmentation.shapes import Inference

_ROWS = 32  # rows of the canvas per strip; the scores of 1024 columns and 150 classes then need 20 MB
_EXACT = jax.lax.Precision.HIGHEST


@dataclass(frozen=True)
class Scores:
    """The scores of the classes at every pixel, computed for a few rows at a time.

    Attributes:
      rows: function that receives the first row of a strip and returns the strip's scores `[B, _ROWS, Wc, K]` float32.
      probabilities: whether scores are probabilities, averaged over scales and flips; otherwise they are logits.
    """

    rows: Callable[[jax.Array], jax.Array]
    probabilities: bool


def predict_classes(model: nnx.Module, batch: Mapping[str, jax.Array], options: Inference) -> jax.Array:
    """Returns the class of every pixel `[B, Hc, Wc]` uint8, see `scores`; arbitrary outside of an image."""
    computed = scores(model, batch, options)
    return each_strip(lambda scores, _: jnp.argmax(scores, axis=-1).astype(jnp.uint8), computed, batch["classes"])


def each_strip(function: Callable[[jax.Array, jax.Array], Any], computed: Scores, classes: jax.Array) -> Any:
    """Applies a function to strips of the scores, one after another, so that only one strip is in memory.

    Args:
      function: maps scores `[B, R, Wc, K]` and classes `[B, R, Wc]` of R rows to arrays `[B, R, ...]`.
      computed: scores of the canvas.
      classes: classes of the canvas `[B, Hc, Wc]` uint8.

    Returns:
      The arrays of the function for all rows, `[B, Hc, ...]`.
    """
    height = classes.shape[1]
    count = -(-height // _ROWS)
    padded = jnp.pad(classes, ((0, 0), (0, count * _ROWS - height), (0, 0)), constant_values=IGNORED)

    def strip(first: jax.Array) -> Any:
        return function(computed.rows(first), jax.lax.dynamic_slice_in_dim(padded, first, _ROWS, axis=1))

    def joined(strips: jax.Array) -> jax.Array:  # [n, B, R, ...]
        rows = jnp.moveaxis(strips, 0, 1)
        return rows.reshape(rows.shape[0], -1, *rows.shape[3:])[:, :height]

    return jax.tree.map(joined, jax.lax.map(strip, _ROWS * jnp.arange(count)))


def scores(model: nnx.Module, batch: Mapping[str, jax.Array], options: Inference) -> Scores:
    """Returns the scores of the classes at every pixel of the canvas.

    Args:
      model: maps normalized images `[B, H, W, 3]` to logits `[B, h, w, K]`.
      batch: images `[B, H, W, 3]` uint8 of each scale, under the names of `Inference.names`; `size` `[B, 2]`: original
        height and width; and `classes` `[B, Hc, Wc]`, used only for its shape.
      options: scales, flips and windows.
    """
    views = list(_views(model, batch, options))

    def strip(first: jax.Array) -> jax.Array:
        total = 0.0
        for view in views:
            resized = view.resized(first)
            total += jax.nn.softmax(resized) if len(views) > 1 else resized
        return total / len(views)

    return Scores(strip, len(views) > 1)


@dataclass(frozen=True)
class _View:
    """Logits of the model for one scale and mirroring, with the matrices that resize them.

    Attributes:
      logits: `[B, h, w, K]` float32.
      down: matrices `[B, n, h]` float32; n is the number of rows of the canvas, rounded up to whole strips.
      across: matrices `[B, Wc, w]` float32.
    """

    logits: jax.Array
    down: jax.Array
    across: jax.Array

    def resized(self, first: jax.Array) -> jax.Array:
        """Returns the logits of a strip of the canvas, `[B, _ROWS, Wc, K]`."""
        down = jax.lax.dynamic_slice_in_dim(self.down, first, _ROWS, axis=1)
        rows = jnp.einsum("brh,bhwk->brwk", down, self.logits, precision=_EXACT)
        return jnp.einsum("bxw,brwk->brxk", self.across, rows, precision=_EXACT)


def _views(model: nnx.Module, batch: Mapping[str, jax.Array], options: Inference) -> Iterator[_View]:
    canvas = batch["classes"].shape[1:]
    rows = -(-canvas[0] // _ROWS) * _ROWS
    for name in options.names:
        images = normalize(batch[name], options.normalization)
        height, width = images.shape[1:3]
        # The order is mmsegmentation's: for each scale, first the image, then its mirror image.
        for mirrored in (False, True)[: 1 + options.flip]:
            given = images[:, :, ::-1] if mirrored else images
            logits = model(given) if options.mode == "whole" else slide(model, given, options.crop, options.stride)
            down = _to_original(rows, batch["size"][:, 0], height)
            across = _to_original(canvas[1], batch["size"][:, 1], width, mirrored)
            if options.mode == "whole":
                down = jnp.einsum("brh,hi->bri", down, _between(logits.shape[1], height), precision=_EXACT)
                across = jnp.einsum("bxw,wi->bxi", across, _between(logits.shape[2], width), precision=_EXACT)
            yield _View(logits, down, across)


def slide(model: nnx.Module, images: jax.Array, crop: tuple[int, int], stride: tuple[int, int]) -> jax.Array:
    """Returns logits `[B, H, W, K]` of images `[B, H, W, 3]`, averaged over windows like in mmsegmentation.

    Windows are `stride` apart. The last window of a row or column is moved so that it is inside the image.

    Args:
      model: maps images to logits at a lower resolution, which are resized bilinearly.
      images: normalized images `[B, H, W, 3]`.
      crop: largest height and width of a window.
      stride: distance of the windows down and to the right, in pixels.
    """
    size = images.shape[1:3]
    window = tuple(min(pair) for pair in zip(crop, size, strict=True))
    corners = [
        (top, left) for top in _starts(size[0], crop[0], stride[0]) for left in _starts(size[1], crop[1], stride[1])
    ]

    def logits_at(corner: jax.Array) -> jax.Array:
        part = jax.lax.dynamic_slice(images, (0, corner[0], corner[1], 0), (len(images), *window, images.shape[3]))
        return bilinear(model(part), window)

    def add(total: jax.Array, corner: jax.Array) -> tuple[jax.Array, None]:
        at = (0, corner[0], corner[1], 0)
        logits = logits_at(corner)
        held = jax.lax.dynamic_slice(total, at, logits.shape)
        return jax.lax.dynamic_update_slice(total, held + logits, at), None

    classes = jax.eval_shape(logits_at, jax.ShapeDtypeStruct((2,), jnp.int32)).shape[-1]
    total, _ = jax.lax.scan(add, jnp.zeros((len(images), *size, classes)), jnp.array(corners))
    counts = jnp.zeros(size)
    for top, left in corners:
        counts = counts.at[top : top + window[0], left : left + window[1]].add(1)
    return total / counts[..., None]


def _starts(size: int, crop: int, stride: int) -> list[int]:
    """Returns the first pixel of each window along an axis of `size` pixels."""
    count = max(size - crop + stride - 1, 0) // stride + 1
    return [max(min(index * stride + crop, size) - crop, 0) for index in range(count)]


def _to_original(count: int, original: jax.Array, size: int, mirrored: bool = False) -> jax.Array:
    """Returns matrices `[B, count, size]` that resize `size` pixels to `original` `[B]` pixels of a canvas.

    The entries are PyTorch's bilinear weights. Rows after the original pixels repeat the row of the last such pixel.

    Args:
      count: number of pixels of the canvas.
      original: numbers of pixels after resizing.
      size: number of pixels before resizing.
      mirrored: whether the result is also mirrored.
    """
    original = jnp.maximum(original, 1)[:, None]  # padding of a batch has size 0
    at = jnp.minimum(jnp.arange(count), original - 1)  # [B, count]
    at = original - 1 - at if mirrored else at
    source = jnp.maximum((at + 0.5) * (size / original.astype(jnp.float32)) - 0.5, 0)
    before = jnp.minimum(jnp.floor(source), size - 1)
    share = (source - before)[..., None]
    before, places = before[..., None], jnp.arange(size)
    after = jnp.minimum(before + 1, size - 1)
    return (places == before) * (1 - share) + (places == after) * share


def _between(small: int, large: int) -> jax.Array:
    """Returns the matrix `[large, small]` that resizes `small` pixels to `large` pixels, see `_to_original`."""
    return _to_original(large, jnp.array([large]), small)[0]
