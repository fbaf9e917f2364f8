"""Compiled functions of a model that several threads may call at the same time."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps
from typing import Any, TypeVar

import jax
from flax import nnx

T = TypeVar("T")


def jitted(function: Callable[..., T], static_argnums: tuple[int, ...] = ()) -> Callable[..., T]:
    """Returns `function(model, *arguments)` compiled, for functions that do not change the model.

    At each call, `nnx.jit` removes the module's attributes and sets them again, so a concurrent call in another thread
    may find attributes missing. Here, each call reads the model's current parameters and does not change the model.

    Args:
      function: function of a model, followed by arrays and hashable values.
      static_argnums: indices of the hashable values among all arguments; the model has index 0.
    """

    @partial(jax.jit, static_argnums=tuple(index + 1 for index in static_argnums))
    def pure(graph: nnx.GraphDef, state: nnx.State, *arguments: Any) -> T:
        return function(nnx.merge(graph, state), *arguments)

    @wraps(function)
    def call(model: nnx.Module, *arguments: Any) -> T:
        return pure(*nnx.split(model), *arguments)

    return call
