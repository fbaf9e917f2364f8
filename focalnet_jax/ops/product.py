"""A linear layer's product whose weights' gradient a CPU computes quickly."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp


def product(
    x: jax.Array, kernel: jax.Array, dimension_numbers: Any, precision: jax.lax.PrecisionLike = None, **options: Any
) -> jax.Array:
    """`[..., I]` times `[I, O]`, with the signature of `jax.lax.dot_general`, whose place it takes in `nnx.Linear`.

    For the kernel's gradient XLA's product for CPUs reads the turned input number by number. It takes a seventh less
    time when that is written out first (`python -m benchmarks.products`).
    """
    del dimension_numbers, options
    return _product(x, kernel, precision)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _product(x: jax.Array, kernel: jax.Array, precision: jax.lax.PrecisionLike) -> jax.Array:
    return jnp.matmul(x, kernel, precision=precision)


def gradients(
    precision: jax.lax.PrecisionLike, kept: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Of input and kernel, `kept`, from the product's, `cotangent`."""
    x, kernel = kept
    turned = jax.lax.optimization_barrier(x.reshape(-1, x.shape[-1]).T)
    to_kernel = jnp.matmul(turned, cotangent.reshape(-1, cotangent.shape[-1]), precision=precision)
    return jnp.matmul(cotangent, kernel.T, precision=precision), to_kernel


_product.defvjp(lambda x, kernel, precision: (_product(x, kernel, precision), (x, kernel)), gradients)
