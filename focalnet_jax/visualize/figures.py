"""Maps as figures: a picture beside what a model makes of it, each map with its name and colour bar."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_INCHES = 2.6  # of a map's width
_TALLEST, _FLATTEST = 3.0, 0.5  # heights a width that a map has room for: it is shown whole, smaller, beyond them
_LETTERS = 60  # of a title
MODULATOR, GATES, ACTIVATION = "viridis", "coolwarm", "inferno"  # colours of what is drawn
_OVER = 0.55  # of a class's map over the picture


@dataclass(frozen=True)
class BlockMaps:
    """Of one block and one picture: its name, and maps as `StageMaps` has them, `[h, w]` and `[h, w, L + 1]`."""

    name: str
    modulator: np.ndarray
    gates: np.ndarray
    given_names: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Of the modulator and of each gate, as given or as in a released variant."""
        levels = range(1, self.gates.shape[-1])
        return self.given_names or ("modulator", *(f"gate, level {level}" for level in levels), "gate, global")


@dataclass(frozen=True)
class Activation:
    """A class's name and probability, and what each place adds to its logit, `[h, w]`."""

    label: str
    probability: float
    places: np.ndarray


def picture_figure(picture: np.ndarray, blocks: Sequence[BlockMaps], activations: Sequence[Activation] = ()) -> Figure:
    """A row a block: modulator, gates of each focal level and the global one; beside them the picture and its classes.

    Args:
      picture: `[H, W, 3]` uint8, as the model is given it.
      blocks: at least one.
      activations: of some classes, drawn over the picture below it.
    """
    columns = 1 + 1 + max(block.gates.shape[-1] for block in blocks)
    rows = max(len(blocks), 1 + len(activations))
    figure, axes = _grid(rows, columns, picture.shape[0] / picture.shape[1])
    _show(axes[0][0], picture, "picture")
    for row, activation in enumerate(activations, 1):
        _overlay(axes[row][0], picture, activation)
    for row, block in enumerate(blocks):
        modulator, *gates = block.names
        _map(axes[row][1], block.modulator, picture, f"{block.name}: {modulator}", MODULATOR)
        for level, name in enumerate(gates):
            _map(axes[row][2 + level], block.gates[..., level], picture, name, GATES, centred=True)
    return figure


def kernels_figure(kernels: Sequence[Sequence[np.ndarray]], names: Sequence[str] = ()) -> Figure:
    """Kernels' means over channels, `[D, k, k]` of each stage and level: a row a stage, its blocks' mean a level.

    `names` are those of the stages; by default they are counted from 1.
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
    """Effective receptive fields `[H, W]` of the stages, by their share of the largest, on a logarithmic scale.

    `names` are those of the stages; by default they are counted from 1.
    """
    figure, axes = _grid(1, len(fields), fields[0].shape[0] / fields[0].shape[1])
    for axis, field, name in zip(axes[0], fields, names or _stages(len(fields)), strict=True):
        share = np.log10(np.maximum(field / max(field.max(), np.finfo(np.float32).tiny), 1e-4))
        _map(axis, share, field, f"{name}: log10 of gradient", ACTIVATION, smooth=False)
    return figure


def as_png(figure: Figure, dots: int = 110) -> bytes:
    """A figure as a file, with so many dots an inch."""
    written = io.BytesIO()
    figure.savefig(written, format="png", dpi=dots)
    return written.getvalue()


def coloured(places: np.ndarray, size: tuple[int, int], colours: str, limits: tuple[float, float]) -> np.ndarray:
    """A map `[h, w]` as a picture `[H, W, 3]` uint8 of size `(H, W)`, its colours going from one limit to the other."""
    low, high = limits
    scaled = np.clip((enlarged(places, size) - low) / max(high - low, 1e-12), 0, 1)
    return np.uint8(255 * matplotlib.colormaps[colours](scaled)[..., :3])


def laid_over(picture: np.ndarray, places: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    """A class's map `[h, w]` over a picture `[H, W, 3]` uint8 without its colours, as `coloured` gives them."""
    grey = picture.mean(axis=-1, dtype=np.float32, keepdims=True)
    return np.uint8(_OVER * coloured(places, picture.shape[:2], ACTIVATION, limits) + (1 - _OVER) * grey)


def enlarged(places: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """`[h, w]` to `(H, W)`, linear between the centres of places, as the authors' notebook does it."""
    rows, columns = (_between(small, large) for small, large in zip(places.shape, size, strict=True))
    return rows @ places @ columns.T


def _between(small: int, large: int) -> np.ndarray:
    """`[large, small]`: shares of the two nearest places, and of the last one beyond it."""
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
    """As it is, not as mathematics: names of classes may hold dollars; the middle of a long one is left out."""
    half = _LETTERS // 2 - 1
    title = title if len(title) <= _LETTERS else f"{title[:half]} … {title[-half:]}"
    axis.set_title(title, fontsize=9, parse_math=False)


def _show(axis: Axes, picture: np.ndarray, title: str) -> None:
    axis.imshow(picture)
    _entitle(axis, title)


def _overlay(axis: Axes, picture: np.ndarray, activation: Activation) -> None:
    _show(axis, picture.mean(axis=-1, dtype=np.float32), f"{activation.label} {activation.probability:.1%}")
    axis.images[0].set_cmap("gray")
    places = enlarged(activation.places, picture.shape[:2])
    shown = axis.imshow(places, cmap=ACTIVATION, alpha=_OVER)
    axis.figure.colorbar(shown, ax=axis, fraction=0.046, pad=0.02).ax.tick_params(labelsize=6)


def _map(
    axis: Axes,
    places: np.ndarray,
    picture: np.ndarray,
    title: str,
    colours: str,
    *,
    centred: bool = False,
    smooth: bool = True,
) -> None:
    if smooth:
        places = enlarged(places, picture.shape[:2])
    most = max(float(np.abs(places).max()), 1e-12)
    limits = {"vmin": -most, "vmax": most} if centred else {}
    shown = axis.imshow(places, cmap=colours, interpolation="nearest", **limits)
    _entitle(axis, title)
    axis.figure.colorbar(shown, ax=axis, fraction=0.046, pad=0.02).ax.tick_params(labelsize=6)
