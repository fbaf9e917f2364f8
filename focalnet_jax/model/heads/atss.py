"""ATSS with FocalNet, for object detection without proposals: FPN and a head with one anchor per position.

Source: arXiv 1912.02424, and mmdetection's ATSSHead. Parameters have mmdetection's names.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from focalnet_jax.distributed.activations import by_example
from focalnet_jax.errors import UserError
from focalnet_jax.model.heads.convolutions import GROUPS, ConvBlock, predictor
from focalnet_jax.model.heads.detector import check_arguments, dense_backbone, rows_of_maps
from focalnet_jax.model.heads.fpn import FPN, fpn_row
from focalnet_jax.model.precision import Precision
from focalnet_jax.model.summary import Row, Summary, count, image_sides
from focalnet_jax.model.variants import FocalNetConfig
from focalnet_jax.ops.compute import Compute

_EXTRA = 2  # maps that the neck adds
PRIOR = 0.01
"""Probability that a newly initialised head predicts for each class (arXiv 1708.02002, section 3.3)."""


def prior_bias(prior: float = PRIOR) -> float:
    """Returns the logit of a probability."""
    return -math.log((1 - prior) / prior)


class Scale(nnx.Module):
    """A learned factor, initially 1; its parameter is `scale` `[1]`."""

    def __init__(self):
        self.scale = nnx.Param(jnp.ones(1))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns `x` times the factor."""
        return x * self.scale[...]


class ATSSHead(nnx.Module):
    """Two towers of convolutions, for classes and for boxes, and their predictors; all levels share the weights.

    Each level has its own factor of the deltas (`Scale`).

    Args:
      levels: number of levels.
      channels: number of channels of the maps and of the towers, a multiple of `GROUPS`.
      convs: number of convolutions per tower.
      num_classes: number of classes K.
      compute: dtype and precision of the towers; the predictors are float32.
      rngs: random streams for the initialisation.
    """

    def __init__(self, levels: int, channels: int, convs: int, num_classes: int, *, compute: Compute, rngs: nnx.Rngs):
        def tower() -> nnx.List:
            options = dict(init=nnx.initializers.normal(0.01), compute=compute, rngs=rngs, norm=True, relu=True)
            return nnx.List([ConvBlock(channels, channels, 3, **options) for _ in range(convs)])

        options = dict(std=0.01, compute=compute, rngs=rngs)
        self.cls_convs, self.reg_convs = tower(), tower()
        self.atss_cls = predictor(channels, num_classes, 3, bias=prior_bias(), **options)
        self.atss_reg = predictor(channels, 4, 3, **options)
        self.atss_centerness = predictor(channels, 1, 3, **options)
        self.scales = nnx.List([Scale() for _ in range(levels)])

    def __call__(self, maps: Sequence[jax.Array]) -> tuple[list[jax.Array], list[jax.Array], list[jax.Array]]:
        """Returns logits, deltas and centerness of each level, see `ATSS.__call__`.

        Args:
          maps: one map `[B, H, W, C]` per level.
        """
        logits, deltas, centerness = [], [], []
        for x, scale in zip(maps, self.scales, strict=True):
            classes = boxes = x
            for block in self.cls_convs:
                classes = block(classes)
            for block in self.reg_convs:
                boxes = block(boxes)
            logits.append(by_example(self.atss_cls(classes)))
            deltas.append(by_example(scale(self.atss_reg(boxes))))
            centerness.append(by_example(self.atss_centerness(boxes)[..., 0]))
        return logits, deltas, centerness


class ATSS(nnx.Module):
    """FocalNet, FPN and ATSS's head.

    The backbone is the original's for dense tasks: it pads maps and normalizes the maps of all stages but the first,
    which is not used. The neck adds two smaller maps: with four stages, levels have strides 8, 16, 32, 64 and 128.

    Args:
      config: configuration of the backbone, with at least two stages; its `num_classes` is not used.
      num_classes: number of classes K.
      precision: dtype of activations and precision of products; the outputs are float32.
      rngs: random streams for the initialisation.
      platform: platform for which implementations are chosen: "cpu", "gpu", "cuda" or "tpu"; by default JAX's backend.
      channels: number of channels of the neck and of the head, a multiple of 32.
      convs: number of convolutions in each tower of the head.

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
        channels: int = 256,
        convs: int = 4,
    ):
        check_arguments(config, 2, num_classes=num_classes, channels=channels, convs=convs)
        if channels % GROUPS:
            raise UserError(f"channels is {channels}; expected a multiple of {GROUPS}, the groups of GroupNorm")
        outputs = range(1, len(config.depths))
        self.backbone = dense_backbone(config, outputs, precision=precision, rngs=rngs, platform=platform)
        widths, compute = self.backbone.channels, self.backbone.compute
        self.neck = FPN(widths, channels, _EXTRA, "output", compute=compute, rngs=rngs)
        self.bbox_head = ATSSHead(len(widths) + _EXTRA, channels, convs, num_classes, compute=compute, rngs=rngs)

    def __call__(
        self, images: jax.Array, keys: jax.Array | nnx.Rngs | None = None
    ) -> tuple[list[jax.Array], list[jax.Array], list[jax.Array]]:
        """Returns three lists in float32 with one array per level, from the largest map to the smallest.

        The lists contain logits of the classes, `[B, h, w, K]`, deltas of the boxes, `[B, h, w, 4]`, and logits of the
        centerness, `[B, h, w]`; h and w are the sides of the images divided by the stride, rounded up.

        Args:
          images: normalized images `[B, H, W, 3]`.
          keys: randomness for stochastic depth, or None to disable it, see `Backbone.features`.

        Raises:
          UserError: images or keys have another shape.
        """
        maps = self.backbone.features(images, keys)
        with jax.named_scope("neck"):
            maps = self.neck(maps)
        with jax.named_scope("bbox_head"):
            return self.bbox_head(maps)


def summarize_atss(model: ATSS, image_size: int | tuple[int, int]) -> Summary:
    """Returns the shapes, parameters and MACs of ATSS, see `focalnet_jax.model.summarize`.

    Args:
      model: the model; its variables may be shapes.
      image_size: pixels per side, or `(height, width)` in pixels.

    Raises:
      UserError: the size is not valid for the model.
    """
    size = image_sides(image_size)
    rows, sizes = rows_of_maps(model.backbone, size)
    neck, positions = fpn_row(model.neck, sizes)
    head = model.bbox_head
    last = (head.atss_cls, head.atss_reg, head.atss_centerness)
    kernels = [*(block.conv for block in (*head.cls_convs, *head.reg_convs)), *last]
    macs = sum(positions) * sum(layer.kernel.size for layer in kernels)
    outputs = sum(layer.kernel.shape[-1] for layer in last)
    head_row = Row("head", (sum(positions), outputs), count(head), macs)
    return Summary((*rows, neck, head_row), size)
