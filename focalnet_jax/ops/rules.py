"""Functions with gradients of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax


def with_rule(function: Callable[..., Any], nondiff_argnums: tuple[int, ...] = ()) -> jax.custom_vjp:
    """`jax.custom_vjp` whose gradients are right in loops that are differentiated twice.

    What a function computes from constants, JAX 0.10 takes out of a `jax.lax.scan` that it differentiates and passes as
    further arguments. A rule that keeps arguments as they are receives others in their place where the loop is
    differentiated again: wrong gradients without an error if the shapes fit. In `jax.checkpoint` constants stay inside.
    It compiles to the same program: the function itself is computed only where nothing is differentiated.

    The result's `fun` is the function without its rule. Rules call that one, so that gradients can be differentiated in
    forward mode, which `jax.custom_vjp` has not.
    """
    return jax.custom_vjp(jax.checkpoint(function, static_argnums=nondiff_argnums), nondiff_argnums=nondiff_argnums)
