"""Matrix products of linear layers. On CPUs, C++ computes float32 products and their gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from focalnet_jax.distributed.activations import allows_kernels, on_each_device, splits_channels
from focalnet_jax.ops import native
from focalnet_jax.ops.compute import Compute

_FEWEST_ROWS, _FEWEST_COLUMNS = 128, 16  # with fewer, packing the kernel takes longer than it saves


def without_bias(layer: nnx.Linear, x: jax.Array) -> jax.Array:
    """Returns the output `[..., D]` of a linear layer for `x` `[..., C]`, without the layer's bias."""
    x, kernel = x.astype(layer.dtype), layer.kernel[...].astype(layer.dtype)
    return layer.dot_general(x, kernel, (((x.ndim - 1,), (0,)), ((), ())), precision=layer.precision)


def conv_without_bias(layer: nnx.Conv, x: jax.Array) -> jax.Array:
    """Returns the output `[B, H', W', D]` of a convolution for `x` `[B, H, W, C]`, without the layer's bias."""
    x, kernel = x.astype(layer.dtype), layer.kernel[...].astype(layer.dtype)
    order = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, kernel, layer.strides, layer.padding, dimension_numbers=order, precision=layer.precision
    )


def choose_product(compute: Compute) -> Callable[..., jax.Array]:
    """Returns the function for the argument `dot_general` of `nnx.Linear`."""
    return product if compute.in_cpp else jax.lax.dot_general


def product(
    x: jax.Array,
    kernel: jax.Array,
    dimension_numbers: jax.lax.DotDimensionNumbers,
    precision: jax.lax.PrecisionLike = None,
    out_sharding: None = None,
) -> jax.Array:
    """Returns the matrix product of `x` `[..., I]` and `kernel` `[I, O]`.

    It replaces `jax.lax.dot_general` in `nnx.Linear`, so it has the same signature. For float32 maps `[B, H, W, C]`,
    C++ computes the product and its gradients in full precision, unless the kernels cannot be compiled or the mesh does
    not allow them, channels are split over devices, or there are few rows or columns. XLA computes all other products
    and gradients, with `precision`.
    """
    assert (dimension_numbers, out_sharding) == ((((x.ndim - 1,), (0,)), ((), ())), None)  # as `nnx.Linear` calls it
    if not allows_kernels(x, kernel):  # JAX's rules split products and gradients over any mesh
        return jax.lax.dot_general(x, kernel, dimension_numbers, precision)
    return _product(x, kernel, precision)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _product(x: jax.Array, kernel: jax.Array, precision: jax.lax.PrecisionLike) -> jax.Array:
    return multiply(x, kernel, precision)


def _gradients(
    precision: jax.lax.PrecisionLike, kept: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns the gradients of `kept`, the input `[..., I]` and kernel `[I, O]`, from the gradient of the product."""
    x, kernel = kept
    return multiply(cotangent, kernel, precision, transposed=True), kernel_gradient(x, cotangent, precision)


_product.defvjp(lambda x, kernel, precision: (multiply(x, kernel, precision), (x, kernel)), _gradients)


def multiply(
    x: jax.Array, kernel: jax.Array, precision: jax.lax.PrecisionLike, *, transposed: bool = False
) -> jax.Array:
    """Returns the matrix product of `x` `[..., I]` and `kernel` `[I, O]`, without derivative rules.

    Args:
      x: input `[..., I]`, or `[..., O]` if `transposed`.
      kernel: matrix `[I, O]`.
      precision: precision of the product if XLA computes it.
      transposed: whether to multiply by the transpose of the kernel.

    Raises:
      ValueError: the shapes do not fit.
    """
    if kernel.ndim != 2 or x.shape[-1] != kernel.shape[transposed]:
        expected = "[I, O] and [..., O], transposed" if transposed else "[I, O] and [..., I]"
        raise ValueError(f"a kernel has shape {kernel.shape} and its input {x.shape}; expected {expected}")
    rows, columns = math.prod(x.shape[:-1]), kernel.shape[not transposed]
    if rows >= _FEWEST_ROWS and columns >= _FEWEST_COLUMNS and _in_cpp(x, kernel):
        times = partial(native.product, transposed=transposed)
        return on_each_device(times, ("examples", "whole"), "examples")(x, kernel)
    return jnp.matmul(x, kernel.T if transposed else kernel, precision=precision)


def kernel_gradient(x: jax.Array, cotangent: jax.Array, precision: jax.lax.PrecisionLike) -> jax.Array:
    """Returns the gradient of a kernel, `[I, O]`.

    Args:
      x: input of the product, `[..., I]`.
      cotangent: gradient of the product, `[..., O]`.
      precision: precision of the result if XLA computes it.

    Raises:
      ValueError: the shapes do not fit. C++ would read past the end of an array.
    """
    if x.shape[:-1] != cotangent.shape[:-1]:
        raise ValueError(
            f"the input has shape {x.shape} and the gradient {cotangent.shape}; expected the same shape except for the "
            "last axis"
        )
    if _in_cpp(x, cotangent):
        product = on_each_device(lambda *rows: native.transposed_product(*rows)[None], ("examples", "examples"), "sums")
        return product(x, cotangent).sum(axis=0)
    axes = tuple(range(x.ndim - 1))
    return jnp.tensordot(x, cotangent, (axes, axes), precision=precision)


def _in_cpp(x: jax.Array, other: jax.Array) -> bool:
    """Returns whether C++ computes a product: for float32 maps that are not empty, if devices do not split channels."""
    alike = x.ndim == 4 and x.dtype == other.dtype and x.size > 0 and other.size > 0
    return alike and not splits_channels() and native.computes(x.dtype)
