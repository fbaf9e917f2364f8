"""GELU and the second matrix product of the MLP, on CPUs. The C++ kernel of GELU also adds the bias before it."""

from __future__ import annotations

from functools import partial

import jax

from focalnet_jax.distributed.activations import on_each_device
from focalnet_jax.ops import native
from focalnet_jax.ops.product import kernel_gradient, multiply


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def activated_product(
    hidden: jax.Array, bias: jax.Array, kernel: jax.Array, precision: jax.lax.PrecisionLike
) -> jax.Array:
    """Returns `GELU(hidden + bias) @ kernel`, `[B, H, W, O]` float32, with exact GELU.

    Only the arguments are kept for the gradient. GELU is computed in C++, because XLA for CPUs may write an array of
    the shape of `hidden` for each of GELU's coefficients if two blocks have the same shape.

    Args:
      hidden: input without bias, `[B, H, W, I]` float32; `native.computes` must be true for its dtype.
      bias: bias `[I]`.
      kernel: matrix `[I, O]`.
      precision: precision of the product if XLA computes it.
    """
    active = on_each_device(native.gelu, ("context", "bias"), "context")(hidden, bias)
    return multiply(active, kernel, precision)


def _gradients(
    precision: jax.lax.PrecisionLike, kept: tuple[jax.Array, jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    hidden, bias, kernel = kept
    gradients_of = on_each_device(
        native.gelu_gradients, ("context", "bias", "context"), ("context", "bias parts", "context")
    )
    to_active = multiply(cotangent, kernel, precision, transposed=True)
    to_hidden, parts, active = gradients_of(hidden, bias, to_active)
    return to_hidden, parts.sum(axis=0), kernel_gradient(active, cotangent, precision)


activated_product.defvjp(lambda *given: (activated_product(*given), given[:-1]), _gradients)
