"""Draws figures of an image and its maps, of kernels and of receptive fields, with titles and colour bars."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from focalnet_jax.tasks.predictor import Activation

_INCHES = 2.6  # width of a map
_TALLEST, _FLATTEST = 3.0, 0.5  # limits of a map's height over its width; maps beyond them are drawn smaller
_LETTERS = 60  # longest title, in characters
MODULATOR, GATES, ACTIVATION = "viridis", "coolwarm", "inferno"  # colour map of each kind of map
_OVER = 0.55  # opacity of a class activation over the image


@dataclass(frozen=True)
class BlockMaps:
    """Maps of one block for one image, see `StageMaps`.

    Attributes:
      name: name of the block in figures.
      modulator: `[h, w]`.
      gates: `[h, w, L + 1]`.
      given_names: names of the modulator and of each gate; empty for the names in a released variant.
    """

    name: str
    modulator: np.ndarray
    gates: np.ndarray
    given_names: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the modulator and of each gate."""
        levels = range(1, self.gates.shape[-1])
        return self.given_names or ("modulator", *(f"gate, level {level}" for level in levels), "gate, global")


def picture_figure(image: np.ndarray, blocks: Sequence[BlockMaps], activations: Sequence[Activation] = ()) -> Figure:
    """Returns a figure with an image and its class activations in the first column, and a row of maps per block.

    Args:
      image: the model's input image, `[H, W, 3]` uint8.
      blocks: maps of at least one block, whose modulator and gates are drawn from the second column on.
      activations: class activations, which are drawn over the image.
    """
    columns = 1 + 1 + max(block.gates.shape[-1] for block in blocks)
    rows = max(len(blocks), 1 + len(activations))
    figure, axes = _grid(rows, columns, image.shape[0] / image.shape[1])
    _show(axes[0][0], image, "image")
    for row, activation in enumerate(activations, 1):
        _overlay(axes[row][0], image, activation)
    for row, block in enumerate(blocks):
        modulator, *gates = block.names
        _map(axes[row][1], block.modulator, image, f"{block.name}: {modulator}", MODULATOR)
        for level, name in enumerate(gates):
            _map(axes[row][2 + level], block.gates[..., level], image, name, GATES, centred=True)
    return figure


def kernels_figure(kernels: Sequence[Sequence[np.ndarray]], names: Sequence[str] = ()) -> Figure:
    """Returns a figure of kernels with one row per stage and one column per level, averaged over blocks.

    Args:
      kernels: mean over channels of the kernels of each stage and level, `[D, k, k]`.
      names: names of the stages; by default their numbers from 1.
    """
    levels = max(map(len, kernels))
    figure, axes = _grid(len(kernels), levels, 1.0)
    for row, of_levels, name in zip(axes, kernels, names or _stages(len(kernels)), strict=True):
        for level, (axis, each) in enumerate(zip(row, of_levels, strict=False), 1):
            mean = each.mean(axis=0)
            size = "x".join(map(str, mean.shape))
            _map(axis, mean, mean, f"{name}, level {level}: {size}", GATES, centred=True, smooth=False)
    return figure


def receptive_figure(fields: Sequence[np.ndarray], names: Sequence[str] = ()) -> Figure:
    """Returns a figure of effective receptive fields, each relative to its maximum, on a logarithmic scale.

    Args:
      fields: field of each stage, `[H, W]`.
      names: names of the stages; by default their numbers from 1.
    """
    figure, axes = _grid(1, len(fields), fields[0].shape[0] / fields[0].shape[1])
    for axis, field, name in zip(axes[0], fields, names or _stages(len(fields)), strict=True):
        share = np.log10(np.maximum(field / max(field.max(), np.finfo(np.float32).tiny), 1e-4))
        _map(axis, share, field, f"{name}: log10 of gradient", ACTIVATION, smooth=False)
    return figure


def as_png(figure: Figure, dots: int = 110) -> bytes:
    """Encodes a figure as PNG with `dots` dots per inch, and returns the bytes."""
    written = io.BytesIO()
    figure.savefig(written, format="png", dpi=dots)
    return written.getvalue()


def coloured(values: np.ndarray, size: tuple[int, int], colours: str, limits: tuple[float, float]) -> np.ndarray:
    """Converts a map to an image.

    Args:
      values: the map, `[h, w]`.
      size: height and width of the image.
      colours: name of a colour map of matplotlib.
      limits: values with the first and the last colour.

    Returns:
      `[*size, 3]` uint8.
    """
    low, high = limits
    scaled = np.clip((enlarged(values, size) - low) / max(high - low, 1e-12), 0, 1)
    return np.uint8(255 * matplotlib.colormaps[colours](scaled)[..., :3])


def laid_over(image: np.ndarray, values: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    """Draws a class activation `[h, w]` over the grey version of an image `[H, W, 3]`; returns `[H, W, 3]` uint8.

    The colours of the activation are scaled to `limits`, see `coloured`.
    """
    grey = image.mean(axis=-1, dtype=np.float32, keepdims=True)
    return np.uint8(_OVER * coloured(values, image.shape[:2], ACTIVATION, limits) + (1 - _OVER) * grey)


def enlarged(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes a map `[h, w]` to `size` `(H, W)` by bilinear interpolation, like the authors' notebook.

    Each value is at the centre of its cell, as with `align_corners=False` in torch.
    """
    rows, columns = (_between(small, large) for small, large in zip(values.shape, size, strict=True))
    return rows @ values @ columns.T


def _between(small: int, large: int) -> np.ndarray:
    """Returns weights `[large, small]` of linear interpolation, which is constant beyond the first and last centre."""
    at = np.clip((np.arange(large) + 0.5) * small / large - 0.5, 0, small - 1)
    below = np.minimum(at.astype(int), max(small - 2, 0))
    shares = np.zeros((large, small), np.float32)
    shares[np.arange(large), below] = 1 - (at - below)
    if small > 1:
        shares[np.arange(large), below + 1] = at - below
    return shares


def _stages(count: int) -> list[str]:
    return [f"stage {number}" for number in range(1, count + 1)]


def _grid(rows: int, columns: int, aspect: float) -> tuple[Figure, np.ndarray]:
    aspect = min(max(aspect, _FLATTEST), _TALLEST)
    figure = Figure(figsize=(columns * _INCHES * 1.25, rows * (_INCHES * aspect + 0.4)), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    return figure, axes


def _entitle(axis: Axes, title: str) -> None:
    """Sets a title, and omits the middle of a long title.

    The title is plain text, because class names may contain dollar signs, which would start a formula.
    """
    half = _LETTERS // 2 - 1
    title = title if len(title) <= _LETTERS else f"{title[:half]} … {title[-half:]}"
    axis.set_title(title, fontsize=9, parse_math=False)


def _show(axis: Axes, image: np.ndarray, title: str) -> None:
    axis.imshow(image)
    _entitle(axis, title)


def _overlay(axis: Axes, image: np.ndarray, activation: Activation) -> None:
    _show(axis, image.mean(axis=-1, dtype=np.float32), f"{activation.name} {activation.probability:.1%}")
    axis.images[0].set_cmap("gray")
    values = enlarged(activation.places, image.shape[:2])
    shown = axis.imshow(values, cmap=ACTIVATION, alpha=_OVER)
    axis.figure.colorbar(shown, ax=axis, fraction=0.046, pad=0.02).ax.tick_params(labelsize=6)


def _map(
    axis: Axes,
    values: np.ndarray,
    image: np.ndarray,
    title: str,
    colours: str,
    *,
    centred: bool = False,
    smooth: bool = True,
) -> None:
    if smooth:
        values = enlarged(values, image.shape[:2])
    most = max(float(np.abs(values).max()), 1e-12)
    limits = {"vmin": -most, "vmax": most} if centred else {}
    shown = axis.imshow(values, cmap=colours, interpolation="nearest", **limits)
    _entitle(axis, title)
    axis.figure.colorbar(shown, ax=axis, fraction=0.046, pad=0.02).ax.tick_params(labelsize=6)
