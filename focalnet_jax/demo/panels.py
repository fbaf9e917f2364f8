"""Panels of the page for an image: its prediction and maps in colour, each with a name and a scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from focalnet_jax.model import FocalNetConfig
from focalnet_jax.tasks.task import Activation, Prediction, Predictor
from focalnet_jax.visualize.drawing import block_maps
from focalnet_jax.visualize.figures import ACTIVATION, GATES, MODULATOR, coloured, laid_over
from focalnet_jax.visualize.maps import StageMaps, modulation_maps
from focalnet_jax.visualize.sheets import at_least

_SHOWN = 224  # smallest side of a panel in pixels
_OVERLAYS = 3  # number of activations drawn over the image


@dataclass(frozen=True)
class Explanation:
    """Prediction and maps of a model for one image.

    Attributes:
      image: the model's input, `[h, w, 3]` uint8, resized and cropped as in evaluation.
      prediction: the prediction.
      activations: maps of the most probable names, in descending order; none if the task has no such maps.
      stages: maps of every block.
    """

    image: np.ndarray
    prediction: Prediction
    activations: Sequence[Activation]
    stages: Sequence[StageMaps]


@dataclass(frozen=True)
class Panel:
    """An image `[H, W, 3]` uint8, its name, its meaning in a few words, and the limits of its colour scale."""

    name: str
    meaning: str
    pixels: np.ndarray
    colours: str = ""
    limits: tuple[float, float] = (0.0, 0.0)


def explain(predictor: Predictor, image: np.ndarray, topk: int) -> Explanation:
    """Returns the prediction, with the `topk` most probable names, and the maps for an image `[H, W, 3]` uint8."""
    (prediction,) = predictor.predictions([image], topk)
    cropped = predictor.transform(image)
    images = predictor.normalize(jnp.asarray(cropped[None]))
    activations = predictor.activations(images, topk)
    return Explanation(cropped, prediction, activations, modulation_maps(predictor.backbone, images))


def prediction_panels(seen: Explanation) -> list[Panel]:
    """Returns the image, and activations over it in one colour scale or, without activations, the drawn prediction."""
    image = at_least(_SHOWN, seen.image)
    drawn = seen.activations[:_OVERLAYS]
    panels = [Panel("the image", "the model's input, resized and cropped", image)]
    if not drawn:
        return [*panels, Panel("the prediction", seen.prediction.line(), seen.prediction.draw(image))]
    limits = _limits([each.places for each in drawn])
    for each in drawn:
        pixels = laid_over(image, each.places, limits)
        panels.append(Panel(each.name, f"{each.probability:.1%}", pixels, ACTIVATION, limits))
    return panels


def block_panels(seen: Explanation, config: FocalNetConfig, stage: int, block: int) -> list[Panel]:
    """Returns the modulator and gates of a block, the gates in one colour scale; `stage` and `block` count from 0."""
    size = at_least(_SHOWN, seen.image).shape[:2]
    maps = block_maps(seen.stages, stage, block)
    limits = _limits([maps.modulator])
    places = "x".join(map(str, maps.modulator.shape))
    name, *gate_names = maps.names
    modulator = coloured(maps.modulator, size, MODULATOR, limits)
    panels = [Panel(name, f"its strength at each of {places} places", modulator, MODULATOR, limits)]
    most = float(np.abs(maps.gates).max(initial=0))
    windows = 1 + np.cumsum(
        np.array(config.kernel_sizes(stage)) - 1
    )  # receptive field of all levels so far, paper section 3.2
    meanings = [*(f"context of {window}x{window} places" for window in windows), "context of the whole image"]
    for gate, name, meaning in zip(np.moveaxis(maps.gates, -1, 0), gate_names, meanings, strict=False):
        panels.append(Panel(name, meaning, coloured(gate, size, GATES, (-most, most)), GATES, (-most, most)))
    return panels


def _limits(maps: Sequence[np.ndarray]) -> tuple[float, float]:
    return float(min(each.min() for each in maps)), float(max(each.max() for each in maps))
