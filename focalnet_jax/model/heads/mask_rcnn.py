"""Mask R-CNN and Cascade Mask R-CNN with FocalNet, for object detection and instance segmentation.

Sources: arXiv 1703.06870, arXiv 1906.09756, and the original's configurations for mmdetection.

The parts are separate methods, because proposals are chosen and RoIs are cut out of the maps between them.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
from flax import nnx

from focalnet_jax.model.heads.detector import check_arguments, dense_backbone, rows_of_maps
from focalnet_jax.model.heads.fpn import FPN, fpn_row
from focalnet_jax.model.heads.roi_heads import MASK_SIDE, SIDE, BoxHead, MaskHead
from focalnet_jax.model.heads.rpn import RPNHead
from focalnet_jax.model.precision import Precision
from focalnet_jax.model.summary import Row, Summary, count, image_sides
from focalnet_jax.model.variants import FocalNetConfig
from focalnet_jax.ops.compute import Compute
from focalnet_jax.ops.roi_align import choose_roi_align, roi_align

_EXTRA = 1  # maps that the neck adds
ANCHORS = 3
"""Number of anchors per position of the region proposal network."""


class RoIHead(nnx.Module):
    """The box heads and mask heads of all stages: `bbox_head` and `mask_head`.

    Args:
      stages: number of stages; `bbox_head` and `mask_head` are lists of this length. None for Mask R-CNN, which has one
        stage: `bbox_head` and `mask_head` are then single heads.
      channels: number of channels of the maps.
      hidden: number of outputs of the fully connected layers of a box head.
      num_classes: number of classes K.
      convs: number of convolutions of a box head.
      layers: number of fully connected layers of a box head.
      compute: dtype and precision.
      rngs: random streams for the initialisation.
    """

    def __init__(
        self,
        stages: int | None,
        channels: int,
        hidden: int,
        num_classes: int,
        *,
        convs: int,
        layers: int,
        compute: Compute,
        rngs: nnx.Rngs,
    ):
        options = dict(convs=convs, layers=layers, compute=compute, rngs=rngs)
        boxes = [BoxHead(channels, hidden, num_classes, **options) for _ in range(stages or 1)]
        masks = [MaskHead(channels, num_classes, compute=compute, rngs=rngs) for _ in range(stages or 1)]
        self.bbox_head = nnx.List(boxes) if stages else boxes[0]
        self.mask_head = nnx.List(masks) if stages else masks[0]


class MaskRCNN(nnx.Module):
    """FocalNet, FPN, a region proposal network, a box head and a mask head.

    The backbone is the original's for dense tasks: it pads maps and normalizes the map of each stage. The neck adds one
    smaller map: with four stages, levels have strides 4, 8, 16, 32 and 64. RoIs are cut out of all but the added map.

    Args:
      config: configuration of the backbone; its `num_classes` is not used.
      num_classes: number of classes K.
      precision: dtype of activations and precision of products; the outputs are float32.
      rngs: random streams for the initialisation.
      platform: platform for which implementations are chosen: "cpu", "gpu", "cuda" or "tpu"; by default JAX's backend.
      channels: number of channels of the neck and of the heads.
      hidden: number of outputs of the fully connected layers of the box head.

    Raises:
      UserError: an argument is outside of its range, or an option does not fit the model, the precision or the
        platform.
    """

    stages: int | None = None  # of the RoI head, see `RoIHead`
    _convs, _layers = 0, 2  # of a box head

    def __init__(
        self,
        config: FocalNetConfig,
        num_classes: int,
        *,
        precision: Precision,
        rngs: nnx.Rngs,
        platform: str | None = None,
        channels: int = 256,
        hidden: int = 1024,
    ):
        check_arguments(config, 1, num_classes=num_classes, channels=channels, hidden=hidden)
        outputs = range(len(config.depths))
        self.backbone = dense_backbone(config, outputs, precision=precision, rngs=rngs, platform=platform)
        widths, compute = self.backbone.channels, self.backbone.compute
        self.neck = FPN(widths, channels, _EXTRA, "pool", compute=compute, rngs=rngs)
        self.rpn_head = RPNHead(channels, ANCHORS, compute=compute, rngs=rngs)
        self.roi_align = choose_roi_align(platform or jax.default_backend())
        layers = dict(convs=self._convs, layers=self._layers)
        self.roi_head = RoIHead(self.stages, channels, hidden, num_classes, **layers, compute=compute, rngs=rngs)

    def maps(self, images: jax.Array, keys: jax.Array | nnx.Rngs | None = None) -> list[jax.Array]:
        """Returns the neck's maps `[B, h, w, C]` from the largest to the smallest.

        Args:
          images: normalized images `[B, H, W, 3]`.
          keys: randomness for stochastic depth, or None to disable it, see `Backbone.features`.

        Raises:
          UserError: images or keys have another shape.
        """
        maps = self.backbone.features(images, keys)
        with jax.named_scope("neck"):
            return self.neck(maps)

    def rpn(self, maps: Sequence[jax.Array]) -> tuple[list[jax.Array], list[jax.Array]]:
        """Returns logits `[B, h, w, A]` and deltas `[B, h, w, A, 4]` of each level, float32, from `maps`."""
        with jax.named_scope("rpn_head"):
            return self.rpn_head(maps)

    def regions(self, maps: Sequence[jax.Array], boxes: jax.Array, side: int) -> jax.Array:
        """Returns the maps of RoIs `[B, N, side, side, C]`, each cut out of the level that fits the size of the RoI.

        Args:
          maps: the neck's maps.
          boxes: RoIs `[B, N, 4]` in pixels of the images.
          side: number of bins along each axis: `SIDE` for box heads, `MASK_SIDE` for mask heads.
        """
        strides = self.backbone.strides
        return roi_align(maps[: len(strides)], boxes, strides, side, implementation=self.roi_align)

    def box_head(
        self, x: jax.Array, stage: int = 0, *, train: bool = False, used: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Returns logits `[B, N, K + 1]`, the background last, and deltas `[B, N, K, 4]`, float32.

        Args:
          x: maps of the RoIs, `[B, N, 7, 7, C]`.
          stage: index of the box head.
          train: whether BatchNorm uses the statistics of the batch, see `BoxHead`; Mask R-CNN has no BatchNorm.
          used: which RoIs count in these statistics, `[B, N]` bool; None for all.
        """
        with jax.named_scope("bbox_head"):
            return _heads(self.roi_head.bbox_head)[stage](x, train=train, used=used)

    def mask_head(self, x: jax.Array, stage: int = 0) -> jax.Array:
        """Returns logits of the masks, `[B, N, 28, 28, K]` float32.

        Args:
          x: maps of the RoIs, `[B, N, 14, 14, C]`.
          stage: index of the mask head.
        """
        with jax.named_scope("mask_head"):
            return _heads(self.roi_head.mask_head)[stage](x)


class CascadeMaskRCNN(MaskRCNN):
    """Mask R-CNN with three box heads and three mask heads. Each box head refines the boxes of the previous one.

    The box heads have convolutions with BatchNorm over all RoIs of the global batch. The arguments are `MaskRCNN`'s.
    """

    stages = 3
    _convs, _layers = 4, 1


def summarize_mask_rcnn(
    model: MaskRCNN, image_size: int | tuple[int, int], boxes: int = 1000, masks: int = 100
) -> Summary:
    """Returns the shapes, parameters and MACs of `MaskRCNN` or `CascadeMaskRCNN`, see `focalnet_jax.model.summarize`.

    Args:
      model: the model; its variables may be shapes.
      image_size: pixels per side, or `(height, width)` in pixels.
      boxes: number of RoIs of each box head.
      masks: number of RoIs of each mask head.

    Raises:
      UserError: the size is not valid for the model.
    """
    size = image_sides(image_size)
    rows, sizes = rows_of_maps(model.backbone, size)
    neck, positions = fpn_row(model.neck, sizes)
    rpn = model.rpn_head
    layers = (rpn.rpn_conv, rpn.rpn_cls, rpn.rpn_reg)
    macs = sum(positions) * sum(layer.kernel.size for layer in layers)
    rpn_row = Row("rpn head", (ANCHORS * sum(positions), 5), count(rpn), macs)
    box_heads, mask_heads = _heads(model.roi_head.bbox_head), _heads(model.roi_head.mask_head)
    outputs = sum(layer.kernel.shape[-1] for layer in (box_heads[0].fc_cls, box_heads[0].fc_reg))
    macs = boxes * sum(map(_box_macs, box_heads))
    box_row = Row("box head", (boxes, outputs), sum(map(count, box_heads)), macs)
    classes = mask_heads[0].conv_logits.kernel.shape[-1]
    macs = masks * sum(map(_mask_macs, mask_heads))
    shape = (masks, 2 * MASK_SIDE, 2 * MASK_SIDE, classes)
    mask_row = Row("mask head", shape, sum(map(count, mask_heads)), macs)
    return Summary((*rows, neck, rpn_row, box_row, mask_row), size)


def _heads(head: nnx.Module) -> Sequence[nnx.Module]:
    return head if isinstance(head, nnx.List) else [head]


def _box_macs(head: BoxHead) -> int:
    convs = sum(block.conv.kernel.size for block in head.shared_convs)
    return SIDE**2 * convs + sum(layer.kernel.size for layer in (*head.shared_fcs, head.fc_cls, head.fc_reg))


def _mask_macs(head: MaskHead) -> int:
    small = sum(block.conv.kernel.size for block in head.convs) + head.upsample.kernel.size
    return MASK_SIDE**2 * (small + 4 * head.conv_logits.kernel.size)
