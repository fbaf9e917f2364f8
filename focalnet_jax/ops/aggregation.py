"""Gated aggregation of the context over all focal levels (paper section 3.2, equations 5 and 6)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp

from focalnet_jax.errors import UserError, suggest
from focalnet_jax.ops import triton
from focalnet_jax.ops.depthwise import depthwise_conv
from focalnet_jax.placement import channels_a_device, on_each_device

FORMS = ("auto", "xla", "triton")


def choose_form(form: str, platform: str) -> str:
    """The form to compute with on a platform, as JAX calls it: "auto" is the fastest one (docs/performance.md).

    Raises:
      UserError: there is no such form, or not on that platform.
    """
    if form not in FORMS:
        raise UserError(f"model.aggregation is {form!r}; expected one of {', '.join(FORMS)}.{suggest(form, FORMS)}")
    on_gpu = platform in ("gpu", "cuda")
    if form == "triton" and not on_gpu:
        raise UserError(f"model.aggregation=triton needs NVIDIA GPUs, the devices are {platform}: leave it at auto")
    return ("triton" if on_gpu else "xla") if form == "auto" else form


def aggregate_context(
    context: jax.Array,
    gates: jax.Array,
    kernels: Sequence[jax.Array],
    *,
    normalize: bool = False,
    form: str = "xla",
) -> jax.Array:
    """Sum of the focal levels' contexts, each times its gate.

    Level l is GELU(depthwise convolution) of level l - 1; the global level is GELU of the last level's mean
    over H and W. GELU is the exact (erf) form, gates have no activation.

    Args:
      context: `[B, H, W, C]`, level 0's input.
      gates: `[B, H, W, L + 1]`, the last one is the global level's.
      kernels: L depthwise kernels, `[k_l, k_l, 1, C]`.
      normalize: divide the sum by L + 1.
      form: "xla", what XLA makes of it; "triton", kernels for NVIDIA GPUs where they support the shapes, see
        `choose_form`.

    Returns:
      `[B, H, W, C]` in the dtype of `context`.
    """
    sizes = [len(kernel) for kernel in kernels]
    if form == "triton" and triton.supports(channels_a_device(context), sizes):
        total = _aggregate_in_kernels(context, gates, tuple(kernels), False)
    else:
        total = _aggregate(context, gates, kernels)
    return total / (len(kernels) + 1) if normalize else total


def _aggregate(context: jax.Array, gates: jax.Array, kernels: Sequence[jax.Array]) -> jax.Array:
    total = jnp.zeros_like(context)
    for level, kernel in enumerate(kernels):
        context = jax.nn.gelu(depthwise_conv(context, kernel), approximate=False)
        total += context * gates[..., level, None]
    return total + _global_context(context) * gates[..., -1, None]


def _global_context(context: jax.Array) -> jax.Array:
    mean = jnp.mean(context, axis=(1, 2), keepdims=True, dtype=jnp.float32).astype(context.dtype)  # [B, 1, 1, C]
    return jax.nn.gelu(mean, approximate=False)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _aggregate_in_kernels(
    context: jax.Array, gates: jax.Array, kernels: tuple[jax.Array, ...], interpret: bool
) -> jax.Array:
    return _forward(context, gates, kernels, interpret)[0]


def _forward(
    context: jax.Array, gates: jax.Array, kernels: tuple[jax.Array, ...], interpret: bool
) -> tuple[jax.Array, tuple[list[jax.Array], jax.Array, tuple[jax.Array, ...]]]:
    level_of = on_each_device(partial(triton.focal_level, interpret=interpret), ("context", "kernel"), "context")
    contexts = [context]
    for kernel in kernels:
        contexts.append(level_of(contexts[-1], kernel))
    total = _global_context(contexts[-1]) * gates[..., -1, None]
    for level, each in enumerate(contexts[1:]):
        total += each * gates[..., level, None]
    return total, (contexts, gates, kernels)


def _backward(
    interpret: bool,
    saved: tuple[list[jax.Array], jax.Array, tuple[jax.Array, ...]],
    cotangent: jax.Array,
) -> tuple[jax.Array, jax.Array, tuple[jax.Array, ...]]:
    contexts, gates, kernels = saved
    slope_of = on_each_device(
        partial(triton.preactivation_gradient, interpret=interpret),
        ("context", "kernel", "context", "gate", "context"),
        "context",
    )
    back_of = on_each_device(partial(triton.input_gradient, interpret=interpret), ("context", "kernel"), "context")
    global_context, to_last = jax.vjp(_global_context, contexts[-1])
    wide = cotangent.astype(jnp.float32)
    gate_gradients = [(wide * each).sum(axis=-1) for each in (*contexts[1:], global_context)]  # [B, H, W] each
    to_global = (wide * gates[..., -1, None]).sum(axis=(1, 2), keepdims=True)  # [B, 1, 1, C]
    (above,) = to_last(to_global.astype(global_context.dtype))
    kernel_gradients = []
    for level in reversed(range(len(kernels))):
        kernel, below = kernels[level], contexts[level]
        gradient = slope_of(below, kernel, cotangent, gates[..., level], above)
        parts_of = on_each_device(
            partial(triton.kernel_gradient_parts, k=len(kernel), interpret=interpret), ("context", "context"), "parts"
        )
        kernel_gradients.append(parts_of(below, gradient).sum(axis=(0, 1))[:, :, None].astype(kernel.dtype))
        above = back_of(gradient, kernel)
    return above, jnp.stack(gate_gradients, axis=-1).astype(gates.dtype), tuple(reversed(kernel_gradients))


_aggregate_in_kernels.defvjp(_forward, _backward)
