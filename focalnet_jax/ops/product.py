"""A linear layer's product whose weights' gradient a CPU computes quickly."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from focalnet_jax.ops import native
from focalnet_jax.placement import on_each_device


def product(
    x: jax.Array,
    kernel: jax.Array,
    dimension_numbers: jax.lax.DotDimensionNumbers,
    precision: jax.lax.PrecisionLike = None,
    out_sharding: None = None,
) -> jax.Array:
    """`[..., I]` times `[I, O]`, called as `nnx.Linear` calls `jax.lax.dot_general`, whose place it takes there.

    The kernel's gradient takes XLA for CPUs a seventh less time when what is turned in it is written out first
    (`python -m benchmarks.products`).
    """
    assert (dimension_numbers, out_sharding) == ((((x.ndim - 1,), (0,)), ((), ())), None)  # a linear layer's
    return _product(x, kernel, precision)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _product(x: jax.Array, kernel: jax.Array, precision: jax.lax.PrecisionLike) -> jax.Array:
    return jnp.matmul(x, kernel, precision=precision)


def gradients(
    precision: jax.lax.PrecisionLike, kept: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Those of input `[..., I]` and kernel `[I, O]`, `kept`, from the product's, `[..., O]`."""
    x, kernel = kept
    return jnp.matmul(cotangent, kernel.T, precision=precision), kernel_gradient(x, cotangent, precision)


def kernel_gradient(x: jax.Array, cotangent: jax.Array, precision: jax.lax.PrecisionLike) -> jax.Array:
    """The kernel's alone, `[I, O]`: the narrower of the two is turned."""
    if x.shape[-1] > cotangent.shape[-1]:
        return jax.lax.optimization_barrier(kernel_gradient(cotangent, x, precision)).T  # or XLA turns the input again
    if x.ndim == 4 and native.computes(x.dtype):
        turned = on_each_device(native.turned, ("examples",), "turned")(x)
    else:
        turned = jax.lax.optimization_barrier(x.reshape(-1, x.shape[-1]).T)
    return jnp.matmul(turned, cotangent.reshape(-1, cotangent.shape[-1]), precision=precision)


_product.defvjp(lambda x, kernel, precision: (_product(x, kernel, precision), (x, kernel)), gradients)
