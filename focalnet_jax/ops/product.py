"""A linear layer's product and its gradients, as a CPU computes them soonest."""

from __future__ import annotations

import math
from functools import partial

import jax
import jax.numpy as jnp

from focalnet_jax.distributed.activations import allows_kernels, on_each_device, splits_channels
from focalnet_jax.ops import native

_FEWEST_ROWS, _FEWEST_COLUMNS = 128, 16  # or putting a kernel's numbers beside each other takes longer than it saves


def product(
    x: jax.Array,
    kernel: jax.Array,
    dimension_numbers: jax.lax.DotDimensionNumbers,
    precision: jax.lax.PrecisionLike = None,
    out_sharding: None = None,
) -> jax.Array:
    """`[..., I]` times `[I, O]`, called as `nnx.Linear` calls `jax.lax.dot_general`, whose place it takes there.

    Of float32 maps `[B, H, W, C]` C++ computes it and its gradients, in full precision, unless channels are split or
    there are few rows or columns. All else is XLA's, with `precision`.
    """
    assert (dimension_numbers, out_sharding) == ((((x.ndim - 1,), (0,)), ((), ())), None)  # a linear layer's
    if not allows_kernels(x, kernel):  # JAX's own rules know how products and gradients are split over any mesh
        return jax.lax.dot_general(x, kernel, dimension_numbers, precision)
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


_product.defvjp(lambda x, kernel, precision: (multiply(x, kernel, precision), (x, kernel)), gradients)


def multiply(x: jax.Array, kernel: jax.Array, precision: jax.lax.PrecisionLike, *, turned: bool = False) -> jax.Array:
    """`[..., I]` times a kernel `[I, O]`, or `[..., O]` times one that is turned; `ValueError` for other shapes."""
    if kernel.ndim != 2 or x.shape[-1] != kernel.shape[turned]:
        raise ValueError(f"a kernel{' turned' * turned} has shape {kernel.shape}, what it multiplies {x.shape}")
    rows, columns = math.prod(x.shape[:-1]), kernel.shape[not turned]
    if rows >= _FEWEST_ROWS and columns >= _FEWEST_COLUMNS and _in_cpp(x, kernel):
        return on_each_device(partial(native.product, turned=turned), ("examples", "whole"), "examples")(x, kernel)
    return jnp.matmul(x, kernel.T if turned else kernel, precision=precision)


def kernel_gradient(x: jax.Array, cotangent: jax.Array, precision: jax.lax.PrecisionLike) -> jax.Array:
    """The kernel's, `[I, O]`, from the input `[..., I]` and the product's gradient `[..., O]`.

    `ValueError` for other shapes: C++ would read past the end.
    """
    if x.shape[:-1] != cotangent.shape[:-1]:
        raise ValueError(f"the input has shape {x.shape}, the product's gradient {cotangent.shape}: other places")
    if _in_cpp(x, cotangent):
        sums_of = on_each_device(lambda *given: native.turned_product(*given)[None], ("examples", "examples"), "sums")
        return sums_of(x, cotangent).sum(axis=0)
    places = tuple(range(x.ndim - 1))
    return jnp.tensordot(x, cotangent, (places, places), precision=precision)


def _in_cpp(x: jax.Array, other: jax.Array) -> bool:
    """Returns whether C++ computes it: of maps that are not empty, where our mesh splits no channels."""
    alike = x.ndim == 4 and x.dtype == other.dtype and x.size > 0 and other.size > 0
    return alike and not splits_channels() and native.computes(x.dtype)
