"""The MLP's GELU in the form that a platform is fastest with."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from focalnet_jax.ops import gelu, native
from focalnet_jax.placement import on_each_device


def activate(x: jax.Array, form: str = "xla") -> jax.Array:
    """Exact GELU of `[B, H, W, C]` of any dtype; it keeps `x` alone for the gradient.

    With `form` "native", float32 is computed by a CPU's own kernel, see `ops.forms`: XLA for CPUs may write each of
    GELU's coefficients out as an array of this shape, where two blocks have it.
    """
    if form == "native" and x.dtype == jnp.float32 and native.register() is not None:
        return _activate_natively(x)
    return gelu.activate(x)


@jax.custom_vjp
def _activate_natively(x: jax.Array) -> jax.Array:
    return on_each_device(native.gelu, ("context",), "context")(x)


def _back(x: jax.Array, cotangent: jax.Array) -> tuple[jax.Array]:
    return (on_each_device(native.gelu_gradient, ("context", "context"), "context")(x, cotangent),)


_activate_natively.defvjp(lambda x: (_activate_natively(x), x), _back)
