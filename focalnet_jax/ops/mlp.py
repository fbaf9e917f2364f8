"""The MLP of a block: Linear, exact GELU, Linear."""

from __future__ import annotations

import jax
from flax import nnx

from focalnet_jax.distributed.activations import allows_kernels, by_example
from focalnet_jax.ops import native
from focalnet_jax.ops.activation import activated_product
from focalnet_jax.ops.compute import Compute
from focalnet_jax.ops.dropout import dropout, split_keys
from focalnet_jax.ops.gelu import activate
from focalnet_jax.ops.product import without_bias


def mlp(
    fc1: nnx.Linear, fc2: nnx.Linear, x: jax.Array, drop_rate: float, keys: jax.Array | None, compute: Compute
) -> jax.Array:
    """Returns `dropout(fc2(dropout(GELU(fc1(x)))))`, `[B, H, W, C]`, without keeping GELU's output for the gradient.

    Args:
      fc1: layer from C to I channels.
      fc2: layer from I to C channels.
      x: input `[B, H, W, C]`.
      drop_rate: rate of both dropouts.
      keys: PRNG keys `[B]`, or None for no dropout.
      compute: chosen implementations. Without dropout, the C++ kernels fuse GELU with the bias of `fc1`.
    """
    parts = (None, None) if keys is None else split_keys(keys, 2)
    drops = keys is not None and drop_rate > 0
    if compute.in_cpp and not drops and native.computes(fc1.dtype) and allows_kernels(x):
        hidden = by_example(without_bias(fc1, x), channels=True)
        before, kernel, bias = (param[...].astype(hidden.dtype) for param in (fc1.bias, fc2.kernel, fc2.bias))
        return activated_product(hidden, before, kernel, fc2.precision) + bias

    def second(hidden: jax.Array, keys: jax.Array | None) -> jax.Array:
        return fc2(dropout(activate(hidden), drop_rate, keys))

    hidden = by_example(fc1(x), channels=True)
    # The input of fc2 is the widest of all maps: computing it again takes less time than writing and reading it. The
    # keys are an argument, because in a scan, XLA without its fusion pass would drop different elements in the backward
    # pass if `second` closed over the keys.
    return dropout(jax.checkpoint(second, prevent_cse=False)(hidden, parts[0]), drop_rate, parts[1])
