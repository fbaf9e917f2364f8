"""Functions with custom gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax


def with_rule(function: Callable[..., Any], nondiff_argnums: tuple[int, ...] = ()) -> jax.custom_vjp:
    """Returns a `jax.custom_vjp` function whose gradients are correct in loops that are differentiated twice.

    JAX 0.10 moves constants of a function out of a differentiated `jax.lax.scan` and passes them as further arguments.
    A rule that keeps its arguments then receives wrong arrays when the loop is differentiated again, and the gradients
    are wrong, without an error if the shapes fit. `jax.checkpoint` keeps constants inside the function, and
    does not change the compiled program, because `function` itself runs only where nothing is differentiated.

    The attribute `fun` of the result is the function without a rule. Rules call `fun`, so that forward mode can
    differentiate gradients; `jax.custom_vjp` functions do not support forward mode.
    """
    return jax.custom_vjp(jax.checkpoint(function, static_argnums=nondiff_argnums), nondiff_argnums=nondiff_argnums)
