"""Makes the panels of the page, which show the image, its prediction and its maps, with colour scales."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from focalnet_jax.data.drawing import at_least
from focalnet_jax.model import FocalNetConfig
from focalnet_jax.tasks.predictor import Activation, Prediction, Predictor
from focalnet_jax.visualize.drawing import block_maps
from focalnet_jax.visualize.figures import ACTIVATION, GATES, MODULATOR, coloured, laid_over
from focalnet_jax.visualize.maps import StageMaps, modulation_maps

_SHOWN = 224  # smallest side of a panel in pixels
_OVERLAYS = 3  # number of activations drawn over the image


@dataclass(frozen=True)
class Explanation:
    """Prediction and maps for one image.

    Attributes:
      image: the model's input, `[h, w, 3]` uint8, resized and cropped as in evaluation.
      prediction: the prediction.
      activations: class activations of the most probable classes, the most probable first; empty if the task has none.
      stages: maps of every block, by stage.
    """

    image: np.ndarray
    prediction: Prediction
    activations: Sequence[Activation]
    stages: Sequence[StageMaps]


@dataclass(frozen=True)
class Panel:
    """An image of the page and its caption.

    Attributes:
      name: title.
      meaning: meaning in a few words.
      pixels: the image, `[H, W, 3]` uint8.
      colours: name of the colour map, or an empty string for an image without a colour scale.
      limits: values of the first and the last colour.
      wide: whether the panel needs the width of the page, for example because it contains text.
    """

    name: str
    meaning: str
    pixels: np.ndarray
    colours: str = ""
    limits: tuple[float, float] = (0.0, 0.0)
    wide: bool = False


def explain(predictor: Predictor, image: np.ndarray, topk: int) -> Explanation:
    """Returns the prediction, with the `topk` most probable classes, and the maps for an image `[H, W, 3]` uint8."""
    (prediction,) = predictor.predictions([image], topk)
    cropped = predictor.transform(image)
    images = predictor.normalize(jnp.asarray(cropped[None]))
    activations = predictor.activations(images, topk)
    return Explanation(cropped, prediction, activations, modulation_maps(predictor.backbone, images))


def prediction_panels(seen: Explanation) -> list[Panel]:
    """Returns panels of the image and of its activations, or of its prediction if there are no activations.

    Activations are drawn over the image and have the same colour scale.
    """
    image = at_least(_SHOWN, seen.image)
    drawn = seen.activations[:_OVERLAYS]
    panels = [Panel("the image", "the model's input, resized as in evaluation", image)]
    if not drawn:
        return [*panels, Panel("the prediction", seen.prediction.line(), seen.prediction.draw(image), wide=True)]
    limits = _limits([each.places for each in drawn])
    for each in drawn:
        pixels = laid_over(image, each.places, limits)
        panels.append(Panel(each.name, f"{each.probability:.1%}", pixels, ACTIVATION, limits))
    return panels


def block_panels(seen: Explanation, config: FocalNetConfig, stage: int, block: int) -> list[Panel]:
    """Returns panels of the modulator and the gates of a block. All gates have the same colour scale.

    `stage` and `block` are indices from 0.
    """
    size = at_least(_SHOWN, seen.image).shape[:2]
    maps = block_maps(seen.stages, stage, block)
    limits = _limits([maps.modulator])
    positions = "x".join(map(str, maps.modulator.shape))
    name, *gate_names = maps.names
    modulator = coloured(maps.modulator, size, MODULATOR, limits)
    panels = [Panel(name, f"its strength at each of {positions} positions", modulator, MODULATOR, limits)]
    most = float(np.abs(maps.gates).max(initial=0))
    windows = 1 + np.cumsum(
        np.array(config.kernel_sizes(stage)) - 1
    )  # receptive field of each level, paper section 3.2
    meanings = [*(f"context of {window}x{window} positions" for window in windows), "context of the whole image"]
    for gate, name, meaning in zip(np.moveaxis(maps.gates, -1, 0), gate_names, meanings, strict=False):
        panels.append(Panel(name, meaning, coloured(gate, size, GATES, (-most, most)), GATES, (-most, most)))
    return panels


def _limits(maps: Sequence[np.ndarray]) -> tuple[float, float]:
    return float(min(each.min() for each in maps)), float(max(each.max() for each in maps))
