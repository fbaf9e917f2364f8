"""Functions of a model, compiled, that any number of threads may call at once."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps
from typing import Any, TypeVar

import jax
from flax import nnx

T = TypeVar("T")


def compiled(function: Callable[..., T], static_argnums: tuple[int, ...] = ()) -> Callable[..., T]:
    """`function(model, *arguments)` compiled, for functions that leave the model as it is.

    `nnx.jit` takes the module apart and puts it together again at each call, and a call of another thread meets it
    without its attributes. Here the model's arrays are read at each call, so that results follow the parameters it has
    then, and nothing is written to it.

    Args:
      function: of a model, arrays and, where `static_argnums` says so, hashable values.
      static_argnums: places of those values among all arguments, of which the model is the first, 0.
    """

    @partial(jax.jit, static_argnums=tuple(place + 1 for place in static_argnums))
    def pure(graph: nnx.GraphDef, state: nnx.State, *arguments: Any) -> T:
        return function(nnx.merge(graph, state), *arguments)

    @wraps(function)
    def call(model: nnx.Module, *arguments: Any) -> T:
        return pure(*nnx.split(model), *arguments)

    return call
