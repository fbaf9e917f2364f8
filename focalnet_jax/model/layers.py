"""Flax layers with FocalNet's initialisation and epsilon, and the conversion of randomness to one PRNG key per example.

Layers are initialised like the original's. Linear weights are normal with standard deviation 0.02, and biases are zero
(the original's `trunc_normal_` cuts at ±2, a hundred standard deviations). Convolutions keep PyTorch's default,
`kaiming_uniform(a=sqrt 5)`, which is uniform in ±1 / sqrt(fan in) for weights and biases.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import Initializer

from focalnet_jax.errors import UserError
from focalnet_jax.ops import normalization
from focalnet_jax.ops.compute import Compute
from focalnet_jax.ops.dropout import example_keys
from focalnet_jax.ops.product import choose_product


def torch_uniform(fan_in: int) -> Initializer:
    """Returns an initializer that draws uniformly from ±1 / sqrt(`fan_in`)."""
    bound = 1 / math.sqrt(fan_in)

    def init(key, shape, dtype=jnp.float32, out_sharding=None):
        del out_sharding  # Flax passes it; shardings are set when the train state is created
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def linear(inputs: int, outputs: int, compute: Compute, rngs: nnx.Rngs) -> nnx.Linear:
    """Returns a fully connected layer, initialised like the original's `nn.Linear`."""
    return nnx.Linear(
        inputs,
        outputs,
        dtype=compute.dtype,
        precision=compute.matmul,
        kernel_init=nnx.initializers.normal(0.02),
        dot_general=choose_product(compute),
        rngs=rngs,
    )


def pointwise_conv(inputs: int, outputs: int, compute: Compute, rngs: nnx.Rngs) -> nnx.Linear:
    """Returns a 1x1 convolution, which is computed like a linear layer but initialised like a convolution."""
    init = torch_uniform(inputs)
    return nnx.Linear(
        inputs,
        outputs,
        dtype=compute.dtype,
        precision=compute.matmul,
        kernel_init=init,
        bias_init=init,
        dot_general=choose_product(compute),
        rngs=rngs,
    )


def conv(
    inputs: int, outputs: int, kernel: int, stride: int, padding: int, compute: Compute, rngs: nnx.Rngs
) -> nnx.Conv:
    """Returns a strided convolution with explicit padding on all sides (JAX's "SAME" pads differently)."""
    init = torch_uniform(inputs * kernel * kernel)
    return nnx.Conv(
        inputs,
        outputs,
        kernel_size=(kernel, kernel),
        strides=(stride, stride),
        padding=((padding, padding), (padding, padding)),
        dtype=compute.dtype,
        precision=compute.matmul,
        kernel_init=init,
        bias_init=init,
        rngs=rngs,
    )


class LayerNorm(nnx.LayerNorm):
    """LayerNorm over C that stores less for the gradient than Flax's LayerNorm.

    Mean and variance are always float32.
    """

    def __init__(self, dim: int, compute: Compute, rngs: nnx.Rngs):
        # The fast variance, E[x^2] - E[x]^2, loses digits where the mean is large.
        super().__init__(dim, epsilon=normalization.EPSILON, dtype=compute.dtype, use_fast_variance=False, rngs=rngs)
        self.implementation = compute.aggregation

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[..., C]` to `[..., C]`."""
        return normalization.layer_norm(
            x.astype(self.dtype), self.scale[...], self.bias[...], self.epsilon, self.implementation
        )


def keys_of_examples(key: Any, batch: int) -> jax.Array:
    """Returns one PRNG key for each example of a batch, `[B]`, from any supported kind of randomness.

    Args:
      key: `jax.random.key(seed)` or an array `[B]` of such keys; `jax.random.PRNGKey(seed)`, which has the same draws,
        or an array `[B, n]` of such keys; `nnx.Rngs` with a stream "dropout" or "default", or such a stream itself.
      batch: batch size B.

    Raises:
      UserError: the key has an unsupported type or a different batch size.
    """
    if isinstance(key, nnx.Rngs):
        stream = getattr(key, "dropout", None)  # Flax returns the default stream if no stream has this name
        key = "nnx.Rngs without a stream 'dropout' or 'default'" if stream is None else stream()
    elif isinstance(key, nnx.RngStream):
        key = key()
    elif isinstance(key, nnx.Variable):
        key = key.get_value()
    dtype, shape = getattr(key, "dtype", None), getattr(key, "shape", None)
    if dtype == jnp.uint32 and shape[-1:] == _shape_of_key_data():
        key = jax.random.wrap_key_data(jnp.asarray(key))
        dtype, shape = key.dtype, key.shape
    if dtype is None or not jnp.issubdtype(dtype, jax.dtypes.prng_key) or shape not in ((), (batch,)):
        given = " ".join(str(key).split())[:100] if shape is None else f"{dtype} of shape {shape}"
        raise UserError(
            f"key is {given}; expected jax.random.key(seed), an array of {batch} such keys (one per image), "
            "jax.random.PRNGKey(seed), or nnx.Rngs(seed)"
        )
    return key if shape else example_keys(key, batch)


def _shape_of_key_data() -> tuple[int, ...]:
    """Returns the shape of `jax.random.PRNGKey(seed)`, which depends on the PRNG that JAX is configured for."""
    return jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0))).shape
