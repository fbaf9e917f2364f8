"""A linear layer's product and its gradients, as a CPU computes them soonest."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from focalnet_jax.ops import native
from focalnet_jax.placement import on_each_device, splits_channels


def product(
    x: jax.Array,
    kernel: jax.Array,
    dimension_numbers: jax.lax.DotDimensionNumbers,
    precision: jax.lax.PrecisionLike = None,
    out_sharding: None = None,
) -> jax.Array:
    """`[..., I]` times `[I, O]`, called as `nnx.Linear` calls `jax.lax.dot_general`, whose place it takes there."""
    assert (dimension_numbers, out_sharding) == ((((x.ndim - 1,), (0,)), ((), ())), None)  # a linear layer's
    return _product(x, kernel, precision)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _product(x: jax.Array, kernel: jax.Array, precision: jax.lax.PrecisionLike) -> jax.Array:
    return multiply(x, kernel, precision)


def gradients(
    precision: jax.lax.PrecisionLike, kept: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Those of input `[..., I]` and kernel `[I, O]`, `kept`, from the product's, `[..., O]`."""
    x, kernel = kept
    return multiply(cotangent, kernel, precision, turned=True), kernel_gradient(x, cotangent, precision)


_product.defvjp(lambda x, kernel, precision: (_product(x, kernel, precision), (x, kernel)), gradients)


def multiply(x: jax.Array, kernel: jax.Array, precision: jax.lax.PrecisionLike, *, turned: bool = False) -> jax.Array:
    """`[..., I]` times a kernel `[I, O]`, or `[..., O]` times one that is turned."""
    if _natively(x):
        return on_each_device(partial(native.product, turned=turned), ("examples", "whole"), "examples")(x, kernel)
    return jnp.matmul(x, kernel.T if turned else kernel, precision=precision)


def kernel_gradient(x: jax.Array, cotangent: jax.Array, precision: jax.lax.PrecisionLike) -> jax.Array:
    """The kernel's, `[I, O]`, from the input `[..., I]` and the product's gradient `[..., O]`."""
    if _natively(x):
        parts_of = on_each_device(
            lambda *given: native.turned_product(*given)[None], ("examples", "examples"), "examples"
        )
        return parts_of(x, cotangent).sum(axis=0)
    rows, rising = (each.reshape(-1, each.shape[-1]) for each in (x, cotangent))
    return jnp.matmul(rows.T, rising, precision=precision)


def _natively(x: jax.Array) -> bool:
    """Whether C++ computes it: of maps, whose channels a device has all of."""
    return x.ndim == 4 and native.computes(x.dtype) and not splits_channels()
