"""UPerNet with FocalNet, for semantic segmentation: pyramid pooling, top-down fusion and an auxiliary head.

Source: arXiv 1807.10221, and mmsegmentation's UPerHead and FCNHead. Parameters have mmsegmentation's names.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from focalnet_jax.distributed.activations import by_example
from focalnet_jax.errors import UserError
from focalnet_jax.model.focalnet import Backbone
from focalnet_jax.model.heads.batch_norm import BatchNorm
from focalnet_jax.model.layers import keys_of_examples
from focalnet_jax.model.precision import Precision
from focalnet_jax.model.summary import Row, Summary, backbone_rows, count, image_sides
from focalnet_jax.model.variants import FocalNetConfig
from focalnet_jax.ops.compute import EXACT, Compute
from focalnet_jax.ops.conv import choose_conv
from focalnet_jax.ops.dropout import channel_dropout, split_keys
from focalnet_jax.ops.product import choose_product
from focalnet_jax.ops.resize import adaptive_mean, bilinear


class ConvBlock(nnx.Module):
    """A convolution without bias, BatchNorm and ReLU, initialised like mmcv's `ConvModule`.

    Args:
      inputs: number of input channels.
      outputs: number of output channels.
      kernel: odd kernel size; maps keep their size.
      compute: dtype and precision of the convolution.
      rngs: random streams for the initialisation.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, *, compute: Compute, rngs: nnx.Rngs):
        options = dict(
            use_bias=False,
            dtype=compute.dtype,
            precision=compute.matmul,
            kernel_init=nnx.initializers.variance_scaling(2.0, "fan_out", "normal"),
            rngs=rngs,
        )
        if kernel == 1:
            self.conv = nnx.Linear(inputs, outputs, dot_general=choose_product(compute), **options)
        else:
            convolve = choose_conv(compute)
            self.conv = nnx.Conv(inputs, outputs, (kernel, kernel), conv_general_dilated=convolve, **options)
        self.bn = BatchNorm(outputs, compute, rngs)

    def __call__(self, x: jax.Array, *, train: bool, used: jax.Array | None = None) -> jax.Array:
        """Maps `[B, H, W, C]` to `[B, H, W, D]`; see `BatchNorm` for `train` and `used`."""
        return nnx.relu(self.bn(by_example(self.conv(x)), train=train, used=used))


class DecodeHead(nnx.Module):
    """Pyramid pooling of the last map, top-down fusion of all maps, and a classifier of pixels.

    Args:
      inputs: number of channels of each map, from the largest map to the smallest.
      channels: number of channels of the fused maps.
      pool_scales: number of pooling windows along each side, one per branch of the pyramid pooling.
      num_classes: number of classes K.
      dropout: probability that a channel of the classifier's input is set to zero.
      compute: dtype and precision of the convolutions.
      rngs: random streams for the initialisation.
    """

    def __init__(
        self,
        inputs: Sequence[int],
        channels: int,
        pool_scales: Sequence[int],
        num_classes: int,
        dropout: float,
        *,
        compute: Compute,
        rngs: nnx.Rngs,
    ):
        def blocks(widths: Sequence[int], kernel: int) -> nnx.List:
            return nnx.List([ConvBlock(width, channels, kernel, compute=compute, rngs=rngs) for width in widths])

        self.pool_scales, self.dropout = tuple(pool_scales), dropout
        self.psp_modules = blocks([inputs[-1]] * len(pool_scales), 1)
        self.bottleneck = ConvBlock(inputs[-1] + len(pool_scales) * channels, channels, 3, compute=compute, rngs=rngs)
        self.lateral_convs = blocks(inputs[:-1], 1)
        self.fpn_convs = blocks([channels] * (len(inputs) - 1), 3)
        self.fpn_bottleneck = ConvBlock(len(inputs) * channels, channels, 3, compute=compute, rngs=rngs)
        self.conv_seg = _pixel_classifier(channels, num_classes, rngs)

    def __call__(self, maps: Sequence[jax.Array], keys: jax.Array | None = None, *, train: bool) -> jax.Array:
        """Returns logits `[B, H, W, K]` float32 of the size of the first map.

        Args:
          maps: maps `[B, H, W, C]` from the largest to the smallest.
          keys: PRNG keys `[B]`, or None for no dropout.
          train: whether BatchNorm uses the statistics of the batch, see `BatchNorm`.
        """
        laterals = [block(x, train=train) for block, x in zip(self.lateral_convs, maps, strict=False)]
        laterals.append(self._pooled(maps[-1], train))
        for index in reversed(range(len(maps) - 1)):
            laterals[index] += bilinear(laterals[index + 1], laterals[index].shape[1:3])
        fused = [block(x, train=train) for block, x in zip(self.fpn_convs, laterals, strict=False)]
        fused.append(laterals[-1])
        size = fused[0].shape[1:3]
        x = jnp.concatenate([bilinear(x, size) for x in fused], axis=-1)
        return _classified(self.conv_seg, self.fpn_bottleneck(x, train=train), self.dropout, keys)

    def _pooled(self, x: jax.Array, train: bool) -> jax.Array:
        """Returns the map of the pyramid pooling (arXiv 1612.01105), `[B, H, W, D]`."""
        branches = [x]
        for scale, block in zip(self.pool_scales, self.psp_modules, strict=True):
            branches.append(bilinear(block(adaptive_mean(x, scale), train=train), x.shape[1:3]))
        return self.bottleneck(jnp.concatenate(branches, axis=-1), train=train)


class AuxiliaryHead(nnx.Module):
    """A convolution and a classifier of pixels (arXiv 1411.4038), whose loss helps the backbone in training.

    Args:
      inputs: number of channels of the map.
      channels: number of channels of the convolution.
      num_classes: number of classes K.
      dropout: probability that a channel of the classifier's input is set to zero.
      compute: dtype and precision of the convolution.
      rngs: random streams for the initialisation.
    """

    def __init__(
        self, inputs: int, channels: int, num_classes: int, dropout: float, *, compute: Compute, rngs: nnx.Rngs
    ):
        self.dropout = dropout
        self.convs = nnx.List([ConvBlock(inputs, channels, 3, compute=compute, rngs=rngs)])
        self.conv_seg = _pixel_classifier(channels, num_classes, rngs)

    def __call__(self, x: jax.Array, keys: jax.Array | None = None, *, train: bool) -> jax.Array:
        """Maps `[B, H, W, C]` to logits `[B, H, W, K]` float32; see `DecodeHead` for the arguments."""
        for block in self.convs:
            x = block(x, train=train)
        return _classified(self.conv_seg, x, self.dropout, keys)


class UPerNet(nnx.Module):
    """FocalNet and UPerNet's heads.

    The backbone is the original's backbone for dense tasks: it pads maps and normalizes the map of each stage.
    BatchNorm uses the statistics of the global batch in training, and running statistics otherwise.

    Args:
      config: configuration of the backbone, with at least two stages; its `num_classes` is not used.
      num_classes: number of classes K.
      precision: dtype of activations and precision of products; logits and BatchNorm's statistics are float32.
      rngs: random streams for the initialisation.
      platform: platform for which implementations are chosen: "cpu", "gpu", "cuda" or "tpu"; by default JAX's backend.
      channels: number of channels of the decode head.
      pool_scales: number of pooling windows along each side, one per branch of the pyramid pooling.
      dropout: probability that a channel of a classifier's input is set to zero in training.
      auxiliary_channels: number of channels of the auxiliary head.
      auxiliary: whether there is an auxiliary head, on the map of the last but one stage.

    Raises:
      UserError: an argument is outside of its range, or an option does not fit the model, the precision or the
        platform.
    """

    def __init__(
        self,
        config: FocalNetConfig,
        num_classes: int,
        *,
        precision: Precision,
        rngs: nnx.Rngs,
        platform: str | None = None,
        channels: int = 512,
        pool_scales: Sequence[int] = (1, 2, 3, 6),
        dropout: float = 0.1,
        auxiliary_channels: int = 256,
        auxiliary: bool = True,
    ):
        for name, value, valid, expected in (
            ("num_classes", num_classes, num_classes > 0, "a positive number"),
            ("channels", channels, channels > 0, "a positive number"),
            ("auxiliary_channels", auxiliary_channels, auxiliary_channels > 0, "a positive number"),
            ("pool_scales", pool_scales, all(scale > 0 for scale in pool_scales), "positive numbers of windows"),
            ("dropout", dropout, 0 <= dropout < 1, "a rate in [0, 1)"),
            ("depths", config.depths, len(config.depths) > 1, "at least two stages for UPerNet"),
        ):
            if not valid:
                raise UserError(f"{name} is {value}; expected {expected}")
        self.backbone = Backbone(
            config,
            precision=precision,
            rngs=rngs,
            platform=platform,
            output_norms=True,
            pad=True,
            stem_padding=3 if config.use_conv_embed else 2,
        )
        widths, compute = self.backbone.channels, self.backbone.compute
        self.decode_head = DecodeHead(widths, channels, pool_scales, num_classes, dropout, compute=compute, rngs=rngs)
        self.auxiliary_head = (
            AuxiliaryHead(widths[-2], auxiliary_channels, num_classes, dropout, compute=compute, rngs=rngs)
            if auxiliary
            else None
        )

    def __call__(
        self, images: jax.Array, keys: jax.Array | nnx.Rngs | None = None, *, train: bool = False
    ) -> jax.Array | tuple[jax.Array, jax.Array | None]:
        """Returns logits `[B, ceil(H / 4), ceil(W / 4), K]` float32, if patches have 4 pixels per side.

        With `train`, returns a pair of these logits and the auxiliary head's logits float32, which are
        `[B, ceil(H / 16), ceil(W / 16), K]` with four stages, or None without an auxiliary head.

        Args:
          images: normalized images `[B, H, W, 3]`.
          keys: randomness for stochastic depth and dropout, or None to disable both, see `Backbone.features`.
          train: whether BatchNorm uses the statistics of the batch and updates its running statistics.

        Raises:
          UserError: images or keys have another shape, or `train` is set and a BatchNorm receives only one value per
            channel, such as with a pooling scale of 1 and one image.
        """
        parts = [None] * 3
        if keys is not None:
            parts = list(split_keys(keys_of_examples(keys, len(images)), 3))
        maps = self.backbone.features(images, parts[0])
        with jax.named_scope("decode_head"):
            logits = self.decode_head(maps, parts[1], train=train)
        if not train:
            return logits
        if self.auxiliary_head is None:
            return logits, None
        with jax.named_scope("auxiliary_head"):
            return logits, self.auxiliary_head(maps[-2], parts[2], train=True)


def summarize_upernet(model: UPerNet, image_size: int | tuple[int, int]) -> Summary:
    """Returns the shapes, parameters and MACs of UPerNet in training, see `focalnet_jax.model.summarize`.

    Args:
      model: the model; its variables may be shapes.
      image_size: pixels per side, or `(height, width)` in pixels.

    Raises:
      UserError: the size is not valid for the model.
    """
    size = image_sides(image_size)
    rows = backbone_rows(model.backbone, size)
    rows.append(Row("output norms", rows[-1].shape, count(model.backbone.output_norms), 0))
    maps = [row.shape[0] * row.shape[1] for row in rows if row.name.startswith("stage")]  # positions of each map
    head = model.decode_head
    pooled = [(scale**2, block) for scale, block in zip(head.pool_scales, head.psp_modules, strict=True)]
    lateral, fused = zip(maps, head.lateral_convs, strict=False), zip(maps, head.fpn_convs, strict=False)
    blocks = [*pooled, *lateral, *fused, (maps[-1], head.bottleneck), (maps[0], head.fpn_bottleneck)]
    macs = sum(positions * block.conv.kernel.size for positions, block in blocks)
    classes = head.conv_seg.kernel.shape[1]
    rows.append(
        Row("decode head", (*rows[1].shape[:2], classes), count(head), macs + maps[0] * head.conv_seg.kernel.size)
    )
    if (auxiliary := model.auxiliary_head) is not None:
        kernels = [block.conv.kernel.size for block in auxiliary.convs]
        macs = maps[-2] * (sum(kernels) + auxiliary.conv_seg.kernel.size)
        rows.append(Row("auxiliary head", (maps[-2], classes), count(auxiliary), macs))
    return Summary(tuple(rows), size)


def _pixel_classifier(inputs: int, num_classes: int, rngs: nnx.Rngs) -> nnx.Linear:
    """Returns the 1x1 convolution to the logits, initialised like mmsegmentation's `conv_seg`."""
    # Always float32, like FocalNet's classifier.
    return nnx.Linear(
        inputs,
        num_classes,
        dtype=EXACT.dtype,
        precision=EXACT.matmul,
        kernel_init=nnx.initializers.normal(0.01),
        rngs=rngs,
    )


def _classified(layer: nnx.Linear, x: jax.Array, dropout: float, keys: jax.Array | None) -> jax.Array:
    return by_example(layer(channel_dropout(x, dropout, keys)))
