"""Flax layers with FocalNet's initialisation and epsilon, and the two kinds of random dropping.

Initialisation is the original's: Linear weights from a normal of standard deviation 0.02 (its `trunc_normal_` cuts at
an absolute ±2, a hundred deviations out) with zero bias; convolutions keep PyTorch's default,
`kaiming_uniform(a=sqrt 5)`, which is uniform in ±1 / sqrt(fan in) for weight and bias alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import Initializer

from focalnet_jax.distributed.activations import allows_kernels
from focalnet_jax.errors import UserError
from focalnet_jax.model.precision import Precision
from focalnet_jax.ops import normalization
from focalnet_jax.ops.product import product

LAYER_NORM_EPSILON = 1e-5  # PyTorch's default; Flax's is 1e-6


def form_for(form: str, x: jax.Array) -> str:
    """Returns the aggregation's form for `x`: XLA's where it may not be given to kernels."""
    return form if allows_kernels(x) else "xla"


def torch_uniform(fan_in: int) -> Initializer:
    """Uniform in ±1 / sqrt(`fan_in`)."""
    bound = 1 / math.sqrt(fan_in)

    def init(key, shape, dtype=jnp.float32, out_sharding=None):
        del out_sharding  # Flax passes it; shardings are set where the train state is made
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def linear(inputs: int, outputs: int, precision: Precision, rngs: nnx.Rngs, form: str = "xla") -> nnx.Linear:
    """A fully connected layer, initialised as the original's `nn.Linear`; `form` is the aggregation's (`ops.forms`)."""
    return nnx.Linear(
        inputs,
        outputs,
        dtype=precision.dtype,
        precision=precision.matmul,
        kernel_init=nnx.initializers.normal(0.02),
        dot_general=product if _natively(form, precision) else jax.lax.dot_general,
        rngs=rngs,
    )


def without_bias(layer: nnx.Linear, x: jax.Array) -> jax.Array:
    """What the layer makes of `[..., C]` before it adds its bias."""
    x, kernel = x.astype(layer.dtype), layer.kernel[...].astype(layer.dtype)
    return layer.dot_general(x, kernel, (((x.ndim - 1,), (0,)), ((), ())), precision=layer.precision)


def conv_without_bias(layer: nnx.Conv, x: jax.Array) -> jax.Array:
    """What a convolution makes of `[B, H, W, C]`, `[B, H', W', C']`, before it adds its bias."""
    x, kernel = x.astype(layer.dtype), layer.kernel[...].astype(layer.dtype)
    order = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, kernel, layer.strides, layer.padding, dimension_numbers=order, precision=layer.precision
    )


def pointwise_conv(inputs: int, outputs: int, precision: Precision, rngs: nnx.Rngs, form: str = "xla") -> nnx.Linear:
    """A 1x1 convolution: computed as a linear layer, initialised as a convolution."""
    init = torch_uniform(inputs)
    return nnx.Linear(
        inputs,
        outputs,
        dtype=precision.dtype,
        precision=precision.matmul,
        kernel_init=init,
        bias_init=init,
        dot_general=product if _natively(form, precision) else jax.lax.dot_general,
        rngs=rngs,
    )


def _natively(form: str, precision: Precision) -> bool:
    return form == "native" and precision.dtype == jnp.float32


class PatchConv(nnx.Conv):
    """A convolution whose windows do not overlap, as a product of patches: a CPU computes its gradients sooner."""

    def __call__(self, x: jax.Array) -> jax.Array:
        """`[B, H, W, C]` to `[B, H / k, W / k, D]`, floored."""
        if not allows_kernels(x, self.kernel[...]):
            return super().__call__(x)
        k, (batch, height, width, channels) = self.kernel_size[0], x.shape
        rows, columns = height // k, width // k
        x = x[:, : rows * k, : columns * k].astype(self.dtype).reshape(batch, rows, k, columns, k, channels)
        patches = x.swapaxes(2, 3).reshape(batch, rows, columns, k * k * channels)
        kernel = self.kernel[...].astype(self.dtype).reshape(patches.shape[-1], -1)
        y = product(patches, kernel, (((3,), (0,)), ((), ())), precision=self.precision)
        return y + self.bias[...].astype(self.dtype)


def conv(
    inputs: int,
    outputs: int,
    kernel: int,
    stride: int,
    padding: int,
    precision: Precision,
    rngs: nnx.Rngs,
    form: str = "xla",
) -> nnx.Conv:
    """A strided convolution with explicit padding on all sides (JAX's "SAME" pads another way)."""
    init = torch_uniform(inputs * kernel * kernel)
    kind = PatchConv if _natively(form, precision) and (kernel, padding) == (stride, 0) else nnx.Conv
    return kind(
        inputs,
        outputs,
        kernel_size=(kernel, kernel),
        strides=(stride, stride),
        padding=((padding, padding), (padding, padding)),
        dtype=precision.dtype,
        precision=precision.matmul,
        kernel_init=init,
        bias_init=init,
        rngs=rngs,
    )


class LayerNorm(nnx.LayerNorm):
    """Flax's, keeping less for the gradient."""

    form: str = "xla"

    def __call__(self, x: jax.Array) -> jax.Array:
        """`[..., C]` to `[..., C]`."""
        form = form_for(self.form, x)
        return normalization.layer_norm(x.astype(self.dtype), self.scale[...], self.bias[...], self.epsilon, form)


def layer_norm(dim: int, precision: Precision, rngs: nnx.Rngs, form: str = "xla") -> LayerNorm:
    """LayerNorm over C; mean and variance are float32 in every precision. `form` is the aggregation's (`ops.forms`)."""
    # The fast variance, E[x^2] - E[x]^2, loses digits where the mean is large.
    norm = LayerNorm(dim, epsilon=LAYER_NORM_EPSILON, dtype=precision.dtype, use_fast_variance=False, rngs=rngs)
    norm.form = form
    return norm


def keys_of_examples(key: Any, batch: int) -> jax.Array:
    """What a caller gives for randomness as a PRNG key for every example of a batch, `[B]`.

    Args:
      key: `jax.random.key(seed)` or an array `[B]` of such keys; `jax.random.PRNGKey(seed)`, which draws the same, or
        `[B, n]` of its kind; `nnx.Rngs` with a stream "dropout" or "default", or one such stream.
      batch: B.

    Raises:
      UserError: it is something else, or not of this batch.
    """
    if isinstance(key, nnx.Rngs):
        stream = getattr(key, "dropout", None)  # flax gives the default one where there is none of this name
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
            f"key is {given}; expected jax.random.key(seed), an array of {batch} such keys, one "
            "for each image, jax.random.PRNGKey(seed), or nnx.Rngs(seed)"
        )
    return key if shape else example_keys(key, batch)


def _shape_of_key_data() -> tuple[int, ...]:
    """The shape of `jax.random.PRNGKey(seed)`: it depends on the implementation that JAX is configured for."""
    return jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0))).shape


def example_keys(key: jax.Array, batch: int) -> jax.Array:
    """A PRNG key for every example of a batch, `[B]`: what is drawn for one depends on no other."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(batch))


def split_keys(keys: jax.Array, count: int) -> jax.Array:
    """Of every example's key `[B]`, `count` new ones: `[count, B]`."""
    return jnp.moveaxis(jax.vmap(lambda key: jax.random.split(key, count))(keys), 0, 1)


def dropout(x: jax.Array, rate: float, keys: jax.Array | None) -> jax.Array:
    """Zeroes elements of `[B, ...]` with probability `rate` and scales the rest; the identity without keys `[B]`."""
    if keys is None or rate == 0.0:
        return x
    return _drop(x, rate, keys, x.shape[1:])


def drop_path(x: jax.Array, rate: jax.Array, keys: jax.Array | None) -> jax.Array:
    """Stochastic depth: zeroes whole examples of a branch `[B, H, W, C]`; the identity without keys `[B]`."""
    if keys is None:
        return x
    return _drop(x, rate, keys, (1, 1, 1))


def _drop(x: jax.Array, rate: jax.Array | float, keys: jax.Array, shape: Sequence[int]) -> jax.Array:
    keep = 1.0 - jnp.asarray(rate, jnp.float32)
    kept = jax.vmap(lambda key: jax.random.bernoulli(key, keep, tuple(shape)))(keys)
    return x * jnp.where(kept, 1.0 / keep, 0.0).astype(x.dtype)
