"""Heads of Mask R-CNN for the maps of RoIs, equal to mmdetection's. Parameters have mmdetection's names.

Sources: arXiv 1703.06870, and mmdetection's ConvFCBBoxHead and FCNMaskHead.
"""

from __future__ import annotations

from itertools import pairwise

import jax
import jax.numpy as jnp
from flax import nnx

from focalnet_jax.distributed.activations import by_example
from focalnet_jax.model.heads import upernet
from focalnet_jax.model.heads.convolutions import ConvBlock, exact, kaiming, predictor, xavier
from focalnet_jax.ops.compute import Compute
from focalnet_jax.ops.product import choose_product

SIDE, MASK_SIDE = 7, 14
"""Height and width of the maps of RoIs that `BoxHead` and `MaskHead` receive."""
_MASK_CONVS = 4


class BoxHead(nnx.Module):
    """Convolutions with BatchNorm, fully connected layers, and two linear layers to the logits and to the deltas.

    Args:
      channels: number of channels C of the maps and of the convolutions.
      hidden: number of outputs of each fully connected layer.
      num_classes: number of classes K without the background.
      convs: number of 3x3 convolutions.
      layers: number of fully connected layers.
      compute: dtype and precision of all layers but the last two, which are float32.
      rngs: random streams for the initialisation.
    """

    def __init__(
        self,
        channels: int,
        hidden: int,
        num_classes: int,
        *,
        convs: int,
        layers: int,
        compute: Compute,
        rngs: nnx.Rngs,
    ):
        blocks = [upernet.ConvBlock(channels, channels, 3, compute=compute, rngs=rngs) for _ in range(convs)]
        self.shared_convs = nnx.List(blocks)
        widths = [SIDE * SIDE * channels, *[hidden] * layers]

        def linear(inputs: int, outputs: int, compute: Compute, init: nnx.Initializer) -> nnx.Linear:
            options = dict(dtype=compute.dtype, precision=compute.matmul, kernel_init=init, rngs=rngs)
            return nnx.Linear(inputs, outputs, **options)

        self.shared_fcs = nnx.List([linear(*pair, compute, xavier) for pair in pairwise(widths)])
        self.fc_cls = linear(widths[-1], num_classes + 1, exact(compute), nnx.initializers.normal(0.01))
        self.fc_reg = linear(widths[-1], 4 * num_classes, exact(compute), nnx.initializers.normal(0.001))

    def __call__(
        self, x: jax.Array, *, train: bool = False, used: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Returns logits `[B, N, K + 1]`, the background last, and deltas of each class `[B, N, K, 4]`, float32.

        Args:
          x: maps of the RoIs, `[B, N, SIDE, SIDE, C]`.
          train: whether BatchNorm uses the statistics of all RoIs of the batch and updates its running statistics.
          used: which RoIs count in these statistics, `[B, N]` bool; None for all.
        """
        rois = x.shape[:2]
        x = x.reshape(-1, *x.shape[2:])
        for block in self.shared_convs:
            x = block(x, train=train, used=None if used is None else used.ravel())
        x = x.reshape(*rois, -1)
        for layer in self.shared_fcs:
            x = nnx.relu(by_example(layer(x)))
        logits, deltas = by_example(self.fc_cls(x)), by_example(self.fc_reg(x))
        return logits, deltas.reshape(*rois, -1, 4)  # the four deltas of a class are adjacent


class Upsample(nnx.Module):
    """A transposed convolution with kernel 2 and stride 2: each position becomes 2x2 positions.

    The parameters are `kernel` `[2, 2, C, D]` and `bias` `[D]`.

    Args:
      inputs: number of input channels C.
      outputs: number of output channels D.
      compute: dtype and precision.
      rngs: random streams for the initialisation.
    """

    def __init__(self, inputs: int, outputs: int, *, compute: Compute, rngs: nnx.Rngs):
        # PyTorch computes the fan out of a transposed convolution from its input channels.
        init = nnx.initializers.normal((2 / (4 * inputs)) ** 0.5)
        self.kernel = nnx.Param(init(rngs.params(), (2, 2, inputs, outputs), jnp.float32))
        self.bias = nnx.Param(jnp.zeros(outputs))
        self.compute = compute

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[B, H, W, C]` to `[B, 2H, 2W, D]`."""
        compute, (batch, height, width, inputs) = self.compute, x.shape
        x, kernel, bias = (each.astype(compute.dtype) for each in (x, self.kernel[...], self.bias[...]))
        matrix = kernel.transpose(2, 0, 1, 3).reshape(inputs, -1)  # [C, 4D]
        product = choose_product(compute)
        x = product(x, matrix, (((3,), (0,)), ((), ())), precision=compute.matmul)
        x = x.reshape(batch, height, width, 2, 2, -1).transpose(0, 1, 3, 2, 4, 5)
        return x.reshape(batch, 2 * height, 2 * width, -1) + bias


class MaskHead(nnx.Module):
    """Four 3x3 convolutions, a transposed convolution, and a 1x1 convolution to the logits of each class.

    Args:
      channels: number of channels C.
      num_classes: number of classes K.
      compute: dtype and precision of all layers but the last one, which is float32.
      rngs: random streams for the initialisation.
    """

    def __init__(self, channels: int, num_classes: int, *, compute: Compute, rngs: nnx.Rngs):
        options = dict(init=kaiming, compute=compute, rngs=rngs, relu=True)
        self.convs = nnx.List([ConvBlock(channels, channels, 3, **options) for _ in range(_MASK_CONVS)])
        self.upsample = Upsample(channels, channels, compute=compute, rngs=rngs)
        std = (2 / num_classes) ** 0.5
        self.conv_logits = predictor(channels, num_classes, 1, std=std, compute=compute, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps RoIs `[B, N, H, W, C]` to logits `[B, N, 2H, 2W, K]` float32."""
        rois = x.shape[:2]
        x = x.reshape(-1, *x.shape[2:])
        for block in self.convs:
            x = block(x)
        x = self.conv_logits(nnx.relu(by_example(self.upsample(x))))
        return by_example(x.reshape(*rois, *x.shape[1:]))
