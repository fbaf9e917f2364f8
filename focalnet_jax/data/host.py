"""Interface by which the loader gets the arrays of an example from a task. This module does not load JAX."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

Batch = dict[str, np.ndarray]


class EvalHost(Protocol):
    """Converts an example of a source to arrays without a batch axis.

    A host is pickled and sent to reader processes. It therefore uses only NumPy, and its module does not import JAX.
    """

    def eval_example(self, example: Any) -> Batch:
        """Returns the arrays of an example for evaluation.

        Raises:
          UnreadableImageError: the image cannot be decoded.
        """

    def groups(self, source: Any) -> Sequence[Sequence[int]]:
        """Groups the examples by the shapes of their arrays for evaluation, and returns the indices of each group.

        Every index is in one group. A host whose arrays always have the same shapes returns one group.

        Raises:
          UserError: the size of an image is needed and cannot be read.
        """


class Host(EvalHost, Protocol):
    """An `EvalHost` that also augments training examples."""

    def train_example(self, example: Any, rng: np.random.Generator) -> Batch:
        """Returns the arrays of an example for training, augmented with random numbers from `rng`.

        Raises:
          UnreadableImageError: the image cannot be decoded.
        """
