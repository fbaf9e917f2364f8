"""Interface between a task and the loader: how an example becomes arrays. Nothing here loads JAX."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

Batch = dict[str, np.ndarray]


class EvalHost(Protocol):
    """Turns the examples of a source into arrays of fixed shapes, without a leading axis.

    A host is pickled into reader processes: it uses only NumPy, and its module does not import JAX.
    """

    def eval_example(self, example: Any) -> Batch:
        """Returns an example for an evaluation; raises `UnreadableImageError` if its image cannot be decoded."""


class Host(EvalHost, Protocol):
    """An `EvalHost` that also augments training examples."""

    def train_example(self, example: Any, rng: np.random.Generator) -> Batch:
        """Returns an augmented example; raises `UnreadableImageError` if its image cannot be decoded."""
