"""Protocol of the parts in which detectors differ: targets, losses and detection."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import jax
from flax import nnx

from focalnet_jax.ops.nms import Detections
from focalnet_jax.tasks.task import Metrics


class Method(Protocol):
    """Training and inference of a detector on normalized images, whose padding is 0."""

    def prepare(self, batch: Mapping[str, jax.Array], key: jax.Array) -> dict[str, Any]:
        """Returns the targets of a global batch and the loss weights of its images, with leaves `[B, ...]`.

        Args:
          batch: `image` `[B, H, W, 3]`, `size`, `boxes` and `labels`, see `Augmentation.apply`.
          key: PRNG key for random samples of targets.
        """

    def loss(self, model: nnx.Module, batch: Mapping[str, Any], keys: jax.Array | None) -> tuple[jax.Array, Metrics]:
        """Returns the mean loss of the images of a prepared batch, and its parts.

        Args:
          model: the detector.
          batch: `image`, `size`, `boxes`, `labels`, for detectors with masks also `masks` and `frames`, and the result
            of `prepare`.
          keys: PRNG keys `[B]` for stochastic depth and for random samples of RoIs. If None, there is no stochastic
            depth, and the samples are always the same.
        """

    def counts(self, model: nnx.Module, batch: Mapping[str, Any], keys: jax.Array) -> jax.Array | None:
        """Returns the divisors of the losses that depend on the model, as means over images, or None.

        See `Task.counts`.
        """

    def detect(self, model: nnx.Module, batch: Mapping[str, jax.Array]) -> Detections:
        """Returns the detections of a batch, with leaves `[B, ...]`, in pixels of the stored images.

        The batch has `image`, `size` and `scale`, see `host.resized_image`.
        """
