"""From a picture to what the page shows of it: classes, and maps in colours, each with its name and scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from focalnet_jax.inference import Classifier
from focalnet_jax.model import FocalNetConfig
from focalnet_jax.visualize.drawing import block_maps
from focalnet_jax.visualize.figures import ACTIVATION, GATES, MODULATOR, Activation, coloured, laid_over
from focalnet_jax.visualize.maps import StageMaps, class_activation, modulation_maps
from focalnet_jax.visualize.sheets import at_least

_SHOWN = 224  # pixels at least of a panel's side
_OVERLAYS = 3  # classes drawn over the picture


@dataclass(frozen=True)
class Seen:
    """What a model makes of one picture.

    Attributes:
      picture: `[h, w, 3]` uint8, as the model is given it: resized and cropped as in an evaluation.
      classes: the most probable ones, the likeliest first.
      stages: maps of every block, of this one picture.
    """

    picture: np.ndarray
    classes: tuple[Activation, ...]
    stages: Sequence[StageMaps]


@dataclass(frozen=True)
class Panel:
    """A picture `[H, W, 3]` uint8, its name, what it means in a few words, and from where to where its colours go."""

    name: str
    meaning: str
    pixels: np.ndarray
    colours: str = ""
    limits: tuple[float, float] = (0.0, 0.0)


def look(classifier: Classifier, picture: np.ndarray, topk: int) -> Seen:
    """Classes as `Classifier.predict` gives them, and the maps, of a picture `[H, W, 3]` uint8 of any size."""
    classes, probabilities = (each[0] for each in classifier.best([picture], topk))
    cropped = classifier.transform(picture)
    images = classifier.normalize(jnp.asarray(cropped[None]))
    places, _ = class_activation(classifier.model, images, classes[None])
    names = [classifier.names[each] for each in classes]
    activations = map(Activation, names, map(float, probabilities), places[0])
    return Seen(cropped, tuple(activations), modulation_maps(classifier.model, images))


def class_panels(seen: Seen) -> list[Panel]:
    """The picture, and over it where the likeliest classes come from, in one scale."""
    picture = at_least(_SHOWN, seen.picture)
    drawn = seen.classes[:_OVERLAYS]
    limits = _limits([each.places for each in drawn])
    panels = [Panel("the picture", "as the model is given it, resized and cropped", picture)]
    for each in drawn:
        pixels = laid_over(picture, each.places, limits)
        panels.append(Panel(each.label, f"{each.probability:.1%}", pixels, ACTIVATION, limits))
    return panels


def block_panels(seen: Seen, config: FocalNetConfig, stage: int, block: int) -> list[Panel]:
    """The modulator and the gates of a block, both counted from 0; the gates in one scale."""
    size = at_least(_SHOWN, seen.picture).shape[:2]
    maps = block_maps(seen.stages, stage, block)
    limits = _limits([maps.modulator])
    places = "x".join(map(str, maps.modulator.shape))
    name, *gate_names = maps.names
    modulator = coloured(maps.modulator, size, MODULATOR, limits)
    panels = [Panel(name, f"how much it changes each of {places} places", modulator, MODULATOR, limits)]
    most = float(np.abs(maps.gates).max(initial=0))
    windows = 1 + np.cumsum(np.array(config.kernel_sizes(stage)) - 1)  # paper section 3.2: of the levels together
    meanings = [*(f"context of {window}x{window} places" for window in windows), "context of the whole picture"]
    for gate, name, meaning in zip(np.moveaxis(maps.gates, -1, 0), gate_names, meanings, strict=False):
        panels.append(Panel(name, meaning, coloured(gate, size, GATES, (-most, most)), GATES, (-most, most)))
    return panels


def _limits(maps: Sequence[np.ndarray]) -> tuple[float, float]:
    return float(min(each.min() for each in maps)), float(max(each.max() for each in maps))
