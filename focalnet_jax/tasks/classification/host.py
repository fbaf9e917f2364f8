"""Converts images and labels to arrays, without importing JAX."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ml_collections import FrozenConfigDict

from focalnet_jax.data.decode import Picture, decode
from focalnet_jax.data.policies import ColourJitter, parse_policy
from focalnet_jax.data.preprocessing import Preprocessing, from_config
from focalnet_jax.data.source import Label, Source
from focalnet_jax.data.transforms import EvalTransform, TrainTransform, eval_transform, train_transform


@dataclass(frozen=True)
class ClassificationHost:
    """`Host` that transforms images `[H, W, 3]` uint8 to images of one size, and does not change labels."""

    train: TrainTransform
    evaluation: EvalTransform

    def train_example(self, example: tuple[Picture, Label], rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Returns `image` `[H, W, 3]` uint8 and `label`, int32.

        Raises:
          UnreadableImageError: the image cannot be decoded.
        """
        picture, label = example
        return {"image": self.train(decode(picture), rng), "label": label}

    def eval_example(self, example: tuple[Picture, Label]) -> dict[str, np.ndarray]:
        """Returns `image` `[H, W, 3]` uint8 and `label`, int32, or `[M]` for several labels.

        Raises:
          UnreadableImageError: the image cannot be decoded.
        """
        picture, label = example
        return {"image": self.evaluation(decode(picture)), "label": label}

    def groups(self, source: Source) -> list[range]:
        """Returns one group with all examples, because their images have equal sizes."""
        return [range(len(source))]


def make_host(config: FrozenConfigDict, preprocessing: Preprocessing | None = None) -> ClassificationHost:
    """Returns the transforms of a config. `preprocessing` replaces the config's preprocessing of evaluations.

    Raises:
      UserError: the augmentation policy is unknown.
    """
    augment, usual = config.augment, from_config(config.data)
    jitter = ColourJitter(augment.color_jitter) if augment.color_jitter else None
    policies = list(filter(None, [parse_policy(augment.policy, usual.normalization.grey), jitter]))
    train = train_transform(
        usual.size, augment.crop_scale, augment.crop_ratio, augment.flip, policies, usual.interpolation
    )
    return ClassificationHost(train, eval_transform(preprocessing or usual))
