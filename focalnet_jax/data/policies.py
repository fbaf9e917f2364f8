"""Random augmentation policies as timm defines them: RandAugment, 3-Augment, colour jitter.

RandAugment: arXiv 1909.13719; 3-Augment: DeiT III, arXiv 2204.07118. Policies draw only from the given
generator.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from focalnet_jax.data import colours, warps
from focalnet_jax.data.preprocessing import IMAGENET
from focalnet_jax.errors import UserError, suggest

Rng = np.random.Generator
Augment = Callable[[np.ndarray, Rng], np.ndarray]

Levels = tuple[int, int, int]

FILL: Levels = IMAGENET.grey  # RGB values, 0 to 255, of pixels from outside the image
_TOP = 10.0  # magnitude at which operations have their full strength


def _signed(value: float, rng: Rng) -> float:
    return -value if rng.random() < 0.5 else value


def _enhancement(magnitude: float, rng: Rng) -> float:
    """Draws the factor of an enhancement. Factor 1 has no effect; the difference to 1 grows with the magnitude."""
    return max(0.1, 1 + _signed(0.9 * magnitude / _TOP, rng))


def _centres(size: int) -> np.ndarray:
    return np.arange(size) + 0.5


def _shear_x(image: np.ndarray, magnitude: float, rng: Rng, fill: Levels = FILL) -> np.ndarray:
    return warps.shift_rows(image, _signed(0.3 * magnitude / _TOP, rng) * _centres(image.shape[0]), fill)


def _shear_y(image: np.ndarray, magnitude: float, rng: Rng, fill: Levels = FILL) -> np.ndarray:
    return warps.shift_columns(image, _signed(0.3 * magnitude / _TOP, rng) * _centres(image.shape[1]), fill)


def _translate_x(image: np.ndarray, magnitude: float, rng: Rng, fill: Levels = FILL) -> np.ndarray:
    height, width = image.shape[:2]
    return warps.shift_rows(image, np.full(height, width * _signed(0.45 * magnitude / _TOP, rng)), fill)


def _translate_y(image: np.ndarray, magnitude: float, rng: Rng, fill: Levels = FILL) -> np.ndarray:
    height, width = image.shape[:2]
    return warps.shift_columns(image, np.full(width, height * _signed(0.45 * magnitude / _TOP, rng)), fill)


def _rotate(image: np.ndarray, magnitude: float, rng: Rng, fill: Levels = FILL) -> np.ndarray:
    return warps.rotate(image, _signed(30 * magnitude / _TOP, rng), fill)


def _blur(image: np.ndarray, radius: float) -> np.ndarray:
    return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(radius)))


def _share(magnitude: float, low: float, high: float) -> float:
    return min(max(low + (high - low) * magnitude / _TOP, low), high)


# Operations by their names in timm. Their arguments are an image, a magnitude, usually in [0, 10], and a generator;
# geometric operations also take a fill.
OPERATIONS: dict[str, Callable[..., np.ndarray]] = {
    "AutoContrast": lambda image, m, rng: colours.autocontrast(image),
    "Equalize": lambda image, m, rng: colours.equalize(image),
    "Invert": lambda image, m, rng: colours.invert(image),
    "Rotate": _rotate,
    "Posterize": lambda image, m, rng: colours.posterize(image, int(4 * m / _TOP)),
    "PosterizeIncreasing": lambda image, m, rng: colours.posterize(image, 4 - int(4 * m / _TOP)),
    "Solarize": lambda image, m, rng: colours.solarize(image, min(256, int(256 * m / _TOP))),
    "SolarizeIncreasing": lambda image, m, rng: colours.solarize(image, 256 - min(256, int(256 * m / _TOP))),
    "SolarizeAdd": lambda image, m, rng: colours.solarize_add(image, min(128, int(110 * m / _TOP))),
    "Color": lambda image, m, rng: colours.saturation(image, 1.8 * m / _TOP + 0.1),
    "ColorIncreasing": lambda image, m, rng: colours.saturation(image, _enhancement(m, rng)),
    "Contrast": lambda image, m, rng: colours.contrast(image, 1.8 * m / _TOP + 0.1),
    "ContrastIncreasing": lambda image, m, rng: colours.contrast(image, _enhancement(m, rng)),
    "Brightness": lambda image, m, rng: colours.brightness(image, 1.8 * m / _TOP + 0.1),
    "BrightnessIncreasing": lambda image, m, rng: colours.brightness(image, _enhancement(m, rng)),
    "Sharpness": lambda image, m, rng: colours.sharpness(image, 1.8 * m / _TOP + 0.1),
    "SharpnessIncreasing": lambda image, m, rng: colours.sharpness(image, _enhancement(m, rng)),
    "ShearX": _shear_x,
    "ShearY": _shear_y,
    "TranslateXRel": _translate_x,
    "TranslateYRel": _translate_y,
    "Desaturate": lambda image, m, rng: colours.saturation(image, 1 - _share(m, 0.5, 1)),
    "GaussianBlur": lambda image, m, rng: _blur(image, _share(m, 0.1, 2)),
    "GaussianBlurRand": lambda image, m, rng: _blur(image, rng.uniform(0.1, 2 * _share(m, 0, 1))),
}
_GEOMETRIC = ("Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel")
_WITH_STRENGTH = ("Posterize", "Solarize", "Color", "Contrast", "Brightness", "Sharpness")
_PLAIN = ("AutoContrast", "Equalize", "Invert", "SolarizeAdd", *_WITH_STRENGTH, *_GEOMETRIC)
_INCREASING = (
    "AutoContrast", "Equalize", "Invert", "SolarizeAdd", *(f"{name}Increasing" for name in _WITH_STRENGTH), *_GEOMETRIC
)  # fmt: skip


@dataclass(frozen=True)
class RandAugment:
    """Draws `layers` operations uniformly with replacement, and applies each with `probability` (arXiv 1909.13719).

    Attributes:
      magnitude: mean of the magnitudes.
      layers: number of operations drawn per image.
      probability: probability of applying a drawn operation.
      std: standard deviation of the normal distribution of magnitudes. If it is infinite, the distribution is uniform
        in [0, magnitude].
      highest: largest magnitude; magnitudes are clipped to [0, highest].
      operations: names of the operations to draw from, keys of `OPERATIONS`.
      fill: RGB values, 0 to 255, of pixels that geometric operations bring in from outside the image.
    """

    magnitude: float = 10.0
    layers: int = 2
    probability: float = 0.5
    std: float = 0.0
    highest: float = _TOP
    operations: tuple[str, ...] = _PLAIN
    fill: Levels = FILL

    def __call__(self, image: np.ndarray, rng: Rng) -> np.ndarray:
        """Returns the augmented image, `[H, W, 3]` uint8."""
        for index in rng.integers(len(self.operations), size=self.layers):
            if rng.random() < self.probability:
                name = self.operations[index]
                fill = (self.fill,) if name in _GEOMETRIC else ()
                image = OPERATIONS[name](image, self._draw(rng), rng, *fill)
        return image

    def _draw(self, rng: Rng) -> float:
        drawn = rng.uniform(0, self.magnitude) if math.isinf(self.std) else rng.normal(self.magnitude, self.std)
        return min(max(drawn, 0.0), self.highest)


def three_augment(image: np.ndarray, rng: Rng) -> np.ndarray:
    """Applies one of the three operations of 3-Augment, drawn uniformly.

    These are solarizing at 128, conversion to grey, and a Gaussian blur with a radius in [0.1, 2].
    """
    name, magnitude = (("Solarize", 5.0), ("Desaturate", 10.0), ("GaussianBlurRand", 10.0))[rng.integers(3)]
    return OPERATIONS[name](image, magnitude, rng)


@dataclass(frozen=True)
class ColourJitter:
    """Changes brightness, contrast and saturation in random order.

    Each factor is uniform in [max(0, 1 - strength), 1 + strength].
    """

    strength: float

    def __call__(self, image: np.ndarray, rng: Rng) -> np.ndarray:
        """Returns the jittered image, `[H, W, 3]` uint8."""
        operations = (colours.brightness, colours.contrast, colours.saturation)
        for index in rng.permutation(3):
            image = operations[index](image, rng.uniform(max(0.0, 1 - self.strength), 1 + self.strength))
        return image


_SETTINGS = {"m": "magnitude", "n": "layers", "p": "probability", "mstd": "std", "mmax": "highest", "inc": "inc"}


def parse_policy(text: str, fill: Levels = FILL) -> Augment | None:
    """Returns the policy described in timm's notation, or None for an empty string.

    Args:
      text: policy in timm's notation, such as `rand-m9-mstd0.5-inc1` or `3a`.
      fill: RGB values, 0 to 255, of pixels from outside the image.

    Raises:
      UserError: the policy is unknown or a value is out of range. The message lists what is valid.
    """
    if not text:
        return None
    if text == "3a":
        return three_augment
    first, *words = text.split("-")
    if first != "rand":
        raise UserError(
            f"augment.policy={text}: expected a policy such as rand-m9-mstd0.5-inc1, 3a, or '' for none"
            f"{suggest(first, ['rand', '3a'])}"
        )
    given = {}
    for word in words:
        match = re.fullmatch(r"([a-z]+)(\d{1,9}(?:\.\d{1,9})?|(?<=mstd)inf)", word)
        if not match or match[1] not in _SETTINGS:
            raise UserError(
                f"augment.policy={text}: {word!r} is unknown; expected m9 (magnitude), n2 (number of "
                "operations), p0.5 (probability of each), mstd0.5 (standard deviation of the magnitude), mmax10 "
                "(largest magnitude), inc1 (strength always increases with magnitude)"
            )
        if _SETTINGS[match[1]] in given:
            raise UserError(f"augment.policy={text}: {match[1]} is given twice")
        given[_SETTINGS[match[1]]] = float(match[2])
    operations = _INCREASING if given.pop("inc", 0) else _PLAIN
    if given.get("std", 0) > 100:  # timm's notation for uniform magnitudes
        given["std"] = math.inf
    layers = given.pop("layers", 2)
    if not (layers >= 1 and layers == round(layers)):
        raise UserError(f"augment.policy={text}: expected a whole number of operations such as n2")
    policy = RandAugment(**given, layers=round(layers), operations=operations, fill=fill)
    if not 0 <= policy.probability <= 1 or policy.highest <= 0:
        raise UserError(f"augment.policy={text}: expected a probability in [0, 1] and a largest magnitude above 0")
    return policy
