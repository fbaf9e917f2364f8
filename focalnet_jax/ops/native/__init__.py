"""For CPUs, float32, in C++: the context aggregation, all levels of a few channels at a time (levels.h), and GELU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from focalnet_jax.errors import UserError
from focalnet_jax.ops.native.build import register, why_not

__all__ = ["focal_level_gradients", "focal_levels", "gelu", "gelu_gradient", "register", "supports", "why_not"]


def supports(dtype: jnp.dtype | None, kernel_sizes: Sequence[int]) -> bool:
    """Whether this form computes in so a dtype, None for several, with kernels of these sizes, here."""
    return (
        dtype == jnp.float32 and all(k % 2 for k in kernel_sizes) and len(kernel_sizes) > 0 and register() is not None
    )


def focal_levels(
    context: jax.Array, gates: jax.Array, kernels: Sequence[jax.Array], bias: jax.Array, *, scale: float
) -> jax.Array:
    """The sum of all levels' contexts times their gates, the global one's too, times `scale`, `[B, H, W, C]`.

    Args:
      context: `[B, H, W, C]` float32, which with the bias is level 0.
      gates: `[B, H, W, L + 1]`.
      kernels: L depthwise kernels, `[k_l, k_l, 1, C]`, k_l odd.
      bias: `[1, 1, 1, C]`.
      scale: of the sum.
    """
    call = _call("focal_levels", jax.ShapeDtypeStruct(context.shape, context.dtype))
    return call(context, gates, _rows(kernels), bias, **_attributes(kernels, scale))


def focal_level_gradients(
    context: jax.Array,
    gates: jax.Array,
    kernels: Sequence[jax.Array],
    bias: jax.Array,
    cotangent: jax.Array,
    *,
    scale: float,
) -> tuple[jax.Array, jax.Array, tuple[jax.Array, ...]]:
    """The gradient of the context, and parts of the others', to be added up along their leading axis.

    They are those of the gates, `[n, B, H, W, L + 1]`, and of kernels and bias, `[B, k_l, k_l, 1, C]` each and
    `[B, 1, 1, 1, C]`. How many there are hangs on shapes alone, so that the numbers do not on the number of threads.
    """
    batch, height, width, channels = context.shape
    rows = _rows(kernels)
    shapes = (
        context.shape,
        (-(-channels // _GROUP), batch, height, width, len(kernels) + 1),
        (batch, len(rows) + 1, channels),
    )
    call = _call("focal_level_gradients", tuple(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes))
    call = _undifferentiated(partial(call, **_attributes(kernels, scale)))
    to_context, to_gates, to_rows = call(context, gates, rows, bias, cotangent)
    sizes = [*(len(kernel) for kernel in kernels), 1]
    parts = jnp.split(to_rows, np.cumsum([k * k for k in sizes])[:-1], axis=1)
    shaped = (part.reshape(batch, k, k, 1, channels) for part, k in zip(parts, sizes, strict=True))
    return to_context, to_gates, tuple(shaped)


def gelu(x: jax.Array) -> jax.Array:
    """Exact GELU of float32 numbers of any shape, to 3e-7 |x|."""
    return _call("gelu_of_each", jax.ShapeDtypeStruct(x.shape, x.dtype))(x)


def gelu_gradient(x: jax.Array, cotangent: jax.Array) -> jax.Array:
    """The gradient of `gelu` at `x` from what it returned's, `cotangent`, which it is written over where it may be."""
    call = _call("gelu_gradient", jax.ShapeDtypeStruct(x.shape, x.dtype), input_output_aliases={1: 0})
    return _undifferentiated(call)(x, cotangent)


_GROUP = 16  # kGroup of handlers.cc


def _call(
    name: str, results: jax.ShapeDtypeStruct | tuple[jax.ShapeDtypeStruct, ...], **options: Any
) -> Callable[..., Any]:
    return jax.ffi.ffi_call(f"{register()}_{name}", results, vmap_method="sequential", **options)


def _undifferentiated(gradients: Callable[..., Any]) -> Callable[..., Any]:
    """Gradients that say plainly that they have none of their own."""
    given = jax.custom_vjp(lambda *arrays: gradients(*arrays))

    def refuse(*_: Any) -> NoReturn:
        raise UserError(
            "the native form has first derivatives alone: for second ones make the model with model.aggregation=xla"
        )

    given.defvjp(refuse, refuse)
    return given


def _rows(kernels: Sequence[jax.Array]) -> jax.Array:
    """All taps one below the other, `[sum of k * k, C]`."""
    return jnp.concatenate([kernel.reshape(-1, kernel.shape[-1]) for kernel in kernels])


def _attributes(kernels: Sequence[jax.Array], scale: float) -> dict[str, np.ndarray | np.float32]:
    return {"sizes": np.asarray([len(kernel) for kernel in kernels], np.int64), "scale": np.float32(scale)}
