"""Convolutions of the detectors' heads with GroupNorm and ReLU, named and computed like mmcv's `ConvModule`."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import Initializer

from focalnet_jax.distributed.activations import by_example
from focalnet_jax.ops.compute import EXACT, Compute
from focalnet_jax.ops.conv import choose_conv
from focalnet_jax.ops.product import choose_product

GROUPS = 32
"""Number of groups of GroupNorm (arXiv 1803.08494)."""

kaiming: Initializer = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")
"""mmcv's initializer of convolutions."""

xavier: Initializer = nnx.initializers.xavier_uniform()
"""mmdetection's initializer of FPN and of fully connected layers."""


def convolution(
    inputs: int,
    outputs: int,
    kernel: int,
    *,
    init: Initializer,
    compute: Compute,
    rngs: nnx.Rngs,
    stride: int = 1,
    bias: float | None = 0.0,
) -> nnx.Linear | nnx.Conv:
    """Returns a convolution of maps `[B, H, W, C]`.

    With stride 1, maps keep their size. With stride 2, sizes are halved and rounded up, and the padding is PyTorch's:
    one zero on all sides, whereas JAX's "SAME" pads even sizes only on the right and below.

    Args:
      inputs: number of input channels.
      outputs: number of output channels.
      kernel: odd kernel size.
      init: initializer of the kernel.
      compute: dtype and precision.
      rngs: random streams for the initialisation.
      stride: 1 or 2.
      bias: initial value of the bias, or None for no bias.
    """
    options = dict(
        use_bias=bias is not None,
        dtype=compute.dtype,
        precision=compute.matmul,
        kernel_init=init,
        bias_init=nnx.initializers.constant(bias or 0.0),
        rngs=rngs,
    )
    if (kernel, stride) == (1, 1):
        return nnx.Linear(inputs, outputs, dot_general=choose_product(compute), **options)
    if stride == 1:
        return nnx.Conv(inputs, outputs, (kernel, kernel), conv_general_dilated=choose_conv(compute), **options)
    sides = ((kernel // 2, kernel // 2),) * 2
    return nnx.Conv(inputs, outputs, (kernel, kernel), strides=(stride, stride), padding=sides, **options)


def predictor(
    inputs: int, outputs: int, kernel: int, *, std: float, rngs: nnx.Rngs, compute: Compute, bias: float = 0.0
) -> nnx.Linear | nnx.Conv:
    """Returns the last convolution of a head, in float32 in every precision, with normally distributed weights.

    The arguments are `convolution`'s; `std` is the standard deviation of the initial weights.
    """
    init = nnx.initializers.normal(std)
    return convolution(inputs, outputs, kernel, init=init, compute=exact(compute), rngs=rngs, bias=bias)


def exact(compute: Compute) -> Compute:
    """Returns the `Compute` of layers that are float32 in every precision."""
    return compute if compute.dtype == jnp.float32 else EXACT


class ConvBlock(nnx.Module):
    """A convolution, optionally followed by GroupNorm, or by ReLU, or by both.

    Args:
      inputs: number of input channels.
      outputs: number of output channels, a multiple of `GROUPS` with `norm`.
      kernel: odd kernel size.
      init: initializer of the kernel.
      compute: dtype and precision of the convolution.
      rngs: random streams for the initialisation.
      stride: 1 or 2, see `convolution`.
      norm: whether there is a GroupNorm, and therefore no bias.
      relu: whether there is a ReLU.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        init: Initializer,
        compute: Compute,
        rngs: nnx.Rngs,
        stride: int = 1,
        norm: bool = False,
        relu: bool = False,
    ):
        make = partial(convolution, init=init, compute=compute, rngs=rngs, stride=stride)
        self.conv = make(inputs, outputs, kernel, bias=None if norm else 0.0)
        self.relu = relu
        if norm:
            # The fast variance, E[x^2] - E[x]^2, loses digits where the mean is large.
            self.gn = nnx.GroupNorm(
                outputs, GROUPS, epsilon=1e-5, dtype=compute.dtype, use_fast_variance=False, rngs=rngs
            )
        else:
            self.gn = None

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[B, H, W, C]` to `[B, H', W', D]`, see `convolution`."""
        x = by_example(self.conv(x))
        x = x if self.gn is None else self.gn(x)
        return nnx.relu(x) if self.relu else x
