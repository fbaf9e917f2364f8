"""Sparse R-CNN with FocalNet, for object detection with learned proposals.

Source: arXiv 2011.12450, and mmdetection's EmbeddingRPNHead, DIIHead and DynamicConv, whose parameters' names are kept.
The original's configurations train it in float32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from focalnet_jax.distributed.activations import by_example
from focalnet_jax.errors import UserError
from focalnet_jax.model.heads.atss import prior_bias
from focalnet_jax.model.heads.convolutions import exact, xavier
from focalnet_jax.model.heads.detector import check_arguments, dense_backbone, rows_of_maps
from focalnet_jax.model.heads.fpn import FPN, fpn_row
from focalnet_jax.model.heads.roi_heads import SIDE
from focalnet_jax.model.layers import LayerNorm, torch_uniform
from focalnet_jax.model.precision import Precision
from focalnet_jax.model.summary import Row, Summary, count, image_sides
from focalnet_jax.model.variants import FocalNetConfig
from focalnet_jax.ops.compute import Compute
from focalnet_jax.ops.roi_align import choose_roi_align, roi_align

STAGES, HEADS = 6, 8
"""Number of stages, and of heads of the attention between proposals."""
_SAMPLES = 2  # per bin of a RoI along each axis
CLASS_LAYERS, BOX_LAYERS = 1, 3
"""Number of hidden layers before the logits and before the deltas."""


def _linear(
    inputs: int, outputs: int, compute: Compute, rngs: nnx.Rngs, *, bias: float | None = None, use_bias: bool = True
) -> nnx.Linear:
    """Returns a layer initialised like mmdetection's DIIHead; `bias` is the initial bias, None for PyTorch's."""
    init = torch_uniform(inputs) if bias is None else nnx.initializers.constant(bias)
    options = dict(dtype=compute.dtype, precision=compute.matmul, kernel_init=xavier, bias_init=init, rngs=rngs)
    return nnx.Linear(inputs, outputs, use_bias=use_bias, **options)


class ProposalHead(nnx.Module):
    """Learned proposals, which are the same for all images.

    The parameters are `init_proposal_features` `[N, C]`, and `init_proposal_bboxes` `[N, 4]`: x and y of the centre,
    width and height as fractions of the image. Initially, each box is the whole image.
    """

    def __init__(self, proposals: int, channels: int, *, rngs: nnx.Rngs):
        self.init_proposal_bboxes = nnx.Param(jnp.tile(jnp.array([0.5, 0.5, 1, 1], jnp.float32), (proposals, 1)))
        self.init_proposal_features = nnx.Param(jax.random.normal(rngs.params(), (proposals, channels)))


class Attention(nnx.Module):
    """Self-attention between the proposals of an image (arXiv 1706.03762), computed like `torch.nn.MultiheadAttention`.

    The outputs of `in_proj` are the query, the key and the value, concatenated in this order.
    """

    def __init__(self, channels: int, *, compute: Compute, rngs: nnx.Rngs):
        self.in_proj = _linear(channels, 3 * channels, compute, rngs, bias=0.0)
        self.out_proj = _linear(channels, channels, compute, rngs, bias=0.0)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[B, N, C]` to `[B, N, C]`."""
        precision = self.in_proj.precision
        joined = self.in_proj(x).reshape(*x.shape[:2], 3, HEADS, -1)
        query, key, value = joined[:, :, 0], joined[:, :, 1], joined[:, :, 2]  # [B, N, heads, C / heads]
        query = query / math.sqrt(query.shape[-1])
        scores = jnp.einsum("bnhc,bmhc->bhnm", query, key, precision=precision).astype(jnp.float32)
        weights = jax.nn.softmax(scores).astype(value.dtype)
        found = jnp.einsum("bhnm,bmhc->bnhc", weights, value, precision=precision)
        return by_example(self.out_proj(found.reshape(x.shape)))


class SelfAttention(nnx.Module):
    """Self-attention with a residual connection; parameters have the names of mmcv's wrapper."""

    def __init__(self, channels: int, *, compute: Compute, rngs: nnx.Rngs):
        self.attn = Attention(channels, compute=compute, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns `x` `[B, N, C]` plus the attention's output."""
        return x + self.attn(x)


class DynamicConv(nnx.Module):
    """Two 1x1 convolutions of a proposal's map, with kernels computed from the proposal's features, and a linear layer.

    Args:
      channels: number of channels C.
      hidden: number of channels D between the convolutions.
      compute: dtype and precision.
      rngs: random streams for the initialisation.
    """

    def __init__(self, channels: int, hidden: int, *, compute: Compute, rngs: nnx.Rngs):
        self.dynamic_layer = _linear(channels, 2 * channels * hidden, compute, rngs)
        self.norm_in, self.norm_out = LayerNorm(hidden, compute, rngs), LayerNorm(channels, compute, rngs)
        self.fc_layer = _linear(SIDE * SIDE * channels, channels, compute, rngs)
        self.fc_norm = LayerNorm(channels, compute, rngs)
        self.hidden = hidden

    def __call__(self, features: jax.Array, x: jax.Array) -> jax.Array:
        """Returns new features `[B, N, C]`.

        Args:
          features: features of the proposals, `[B, N, C]`.
          x: maps of the proposals, `[B, N, SIDE, SIDE, C]`.
        """
        precision, (*rois, channels) = self.fc_layer.precision, features.shape
        first, second = jnp.split(by_example(self.dynamic_layer(features)), 2, axis=-1)
        first = first.reshape(*rois, channels, self.hidden)
        second = second.reshape(*rois, self.hidden, channels)
        x = x.reshape(*rois, -1, channels).astype(first.dtype)
        x = nnx.relu(self.norm_in(jnp.einsum("bnpc,bncd->bnpd", x, first, precision=precision)))
        x = nnx.relu(self.norm_out(jnp.einsum("bnpd,bndc->bnpc", x, second, precision=precision)))
        return nnx.relu(self.fc_norm(by_example(self.fc_layer(x.reshape(*rois, -1)))))


class FeedForward(nnx.Module):
    """Two linear layers with a ReLU between them, added to their input."""

    def __init__(self, channels: int, hidden: int, *, compute: Compute, rngs: nnx.Rngs):
        pairs = ((channels, hidden), (hidden, channels))
        self.layers = nnx.List([_linear(*pair, compute, rngs) for pair in pairs])

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[B, N, C]` to `[B, N, C]`."""
        first, second = self.layers
        return x + by_example(second(nnx.relu(first(x))))


class DIIHead(nnx.Module):
    """One stage: attention between proposals, dynamic convolutions of their maps, and predictions of classes and boxes.

    Args:
      channels: number of channels C.
      dynamic: number of channels between the dynamic convolutions.
      hidden: number of channels between the layers of the feed-forward network.
      num_classes: number of classes K.
      compute: dtype and precision of all layers but the last two, which are float32.
      rngs: random streams for the initialisation.
    """

    def __init__(self, channels: int, dynamic: int, hidden: int, num_classes: int, *, compute: Compute, rngs: nnx.Rngs):
        def tower(layers: int) -> nnx.List:
            found = []
            for _ in range(layers):
                found += [
                    _linear(channels, channels, compute, rngs, use_bias=False),
                    LayerNorm(channels, compute, rngs),
                ]
            return nnx.List(found)

        options = dict(compute=compute, rngs=rngs)
        self.attention, self.attention_norm = SelfAttention(channels, **options), LayerNorm(channels, compute, rngs)
        self.instance_interactive_conv = DynamicConv(channels, dynamic, **options)
        self.instance_interactive_conv_norm = LayerNorm(channels, compute, rngs)
        self.ffn, self.ffn_norm = FeedForward(channels, hidden, **options), LayerNorm(channels, compute, rngs)
        self.cls_fcs, self.reg_fcs = tower(CLASS_LAYERS), tower(BOX_LAYERS)  # each layer is followed by its norm
        self.fc_cls = _linear(channels, num_classes, exact(compute), rngs, bias=prior_bias())
        self.fc_reg = _linear(channels, 4, exact(compute), rngs, bias=0.0)

    def __call__(self, x: jax.Array, features: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns logits `[B, N, K]` and deltas `[B, N, 4]`, float32, and the features `[B, N, C]` of the next stage.

        Args:
          x: maps of the proposals, `[B, N, SIDE, SIDE, C]`.
          features: features of the proposals, `[B, N, C]`.
        """
        features = self.attention_norm(self.attention(features))
        features = self.instance_interactive_conv_norm(features + self.instance_interactive_conv(features, x))
        features = self.ffn_norm(self.ffn(features))
        classes, boxes = (_through(layers, features) for layers in (self.cls_fcs, self.reg_fcs))
        return by_example(self.fc_cls(classes)), by_example(self.fc_reg(boxes)), features


def _through(layers: nnx.List, x: jax.Array) -> jax.Array:
    for layer, norm in zip(layers[::2], layers[1::2], strict=True):
        x = nnx.relu(norm(by_example(layer(x))))
    return x


class SparseRoIHead(nnx.Module):
    """The list `bbox_head` of the heads of all stages."""

    def __init__(self, heads: list[DIIHead]):
        self.bbox_head = nnx.List(heads)


class SparseRCNN(nnx.Module):
    """FocalNet, FPN, learned proposals and six stages that refine them.

    The backbone is the original's for dense tasks: it pads maps and normalizes the map of each stage. With four
    stages, the maps have strides 4, 8, 16 and 32.

    Args:
      config: configuration of the backbone; its `num_classes` is not used.
      num_classes: number of classes K.
      precision: dtype of activations and precision of products; logits and deltas are float32.
      rngs: random streams for the initialisation.
      platform: platform for which implementations are chosen: "cpu", "gpu", "cuda" or "tpu"; by default JAX's backend.
      channels: number of channels C of the neck and of the proposals' features, a multiple of 8.
      proposals: number of proposals N.
      dynamic: number of channels between the dynamic convolutions; by default a quarter of `channels`.
      hidden: number of channels between the layers of the feed-forward networks.

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
        proposals: int = 300,
        dynamic: int | None = None,
        hidden: int = 2048,
    ):
        dynamic = max(1, channels // 4) if dynamic is None else dynamic
        numbers = dict(num_classes=num_classes, channels=channels, proposals=proposals, dynamic=dynamic, hidden=hidden)
        check_arguments(config, 1, **numbers)
        if channels % HEADS:
            raise UserError(f"channels is {channels}; expected a multiple of {HEADS}, the heads of the attention")
        outputs = range(len(config.depths))
        self.backbone = dense_backbone(config, outputs, precision=precision, rngs=rngs, platform=platform)
        compute = self.backbone.compute
        self.neck = FPN(self.backbone.channels, channels, compute=compute, rngs=rngs)
        self.roi_align = choose_roi_align(platform or jax.default_backend())
        self.rpn_head = ProposalHead(proposals, channels, rngs=rngs)
        options = dict(compute=compute, rngs=rngs)
        self.roi_head = SparseRoIHead(
            [DIIHead(channels, dynamic, hidden, num_classes, **options) for _ in range(STAGES)]
        )

    def maps(self, images: jax.Array, keys: jax.Array | nnx.Rngs | None = None) -> list[jax.Array]:
        """Returns the neck's maps `[B, h, w, C]` from the largest to the smallest, see `MaskRCNN.maps`."""
        maps = self.backbone.features(images, keys)
        with jax.named_scope("neck"):
            return self.neck(maps)

    def proposals(self) -> tuple[jax.Array, jax.Array]:
        """Returns the learned boxes `[N, 4]` and features `[N, C]`, float32.

        A box consists of x and y of the centre, width and height, as fractions of the image without padding.
        """
        return self.rpn_head.init_proposal_bboxes[...], self.rpn_head.init_proposal_features[...]

    def regions(self, maps: Sequence[jax.Array], boxes: jax.Array) -> jax.Array:
        """Returns the maps `[B, N, SIDE, SIDE, C]` of boxes `[B, N, 4]` in pixels of the images."""
        strides = self.backbone.strides
        return roi_align(maps, boxes, strides, SIDE, samples=_SAMPLES, implementation=self.roi_align)

    def box_head(self, x: jax.Array, features: jax.Array, stage: int) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns logits `[B, N, K]` and deltas `[B, N, 4]`, float32, and the features `[B, N, C]` of the next stage.

        Args:
          x: maps of the proposals, `[B, N, 7, 7, C]`.
          features: features of the proposals, `[B, N, C]`.
          stage: index of the head.
        """
        with jax.named_scope("bbox_head"):
            return self.roi_head.bbox_head[stage](x, features)


def summarize_sparse_rcnn(model: SparseRCNN, image_size: int | tuple[int, int]) -> Summary:
    """Returns the shapes, parameters and MACs of Sparse R-CNN, see `focalnet_jax.model.summarize`.

    Args:
      model: the model; its variables may be shapes.
      image_size: pixels per side, or `(height, width)` in pixels.

    Raises:
      UserError: the size is not valid for the model.
    """
    size = image_sides(image_size)
    rows, sizes = rows_of_maps(model.backbone, size)
    neck, _ = fpn_row(model.neck, sizes)
    boxes, heads = len(model.rpn_head.init_proposal_bboxes), model.roi_head.bbox_head
    classes = heads[0].fc_cls.kernel.shape[-1]
    rest = (
        Row("proposals", (boxes, 4), count(model.rpn_head), 0),
        Row("heads", (boxes, classes + 4), count(model.roi_head), sum(_macs(head, boxes) for head in heads)),
    )
    return Summary((*rows, neck, *rest), size)


def _macs(head: DIIHead, boxes: int) -> int:
    attention, convs = head.attention.attn, head.instance_interactive_conv
    channels = attention.out_proj.kernel.shape[0]
    layers = [attention.in_proj, attention.out_proj, convs.dynamic_layer, convs.fc_layer, *head.ffn.layers]
    layers += [*head.cls_fcs[::2], *head.reg_fcs[::2], head.fc_cls, head.fc_reg]
    products = 2 * boxes * channels + 2 * SIDE**2 * channels * convs.hidden  # attention, dynamic convolutions
    return boxes * (sum(layer.kernel.size for layer in layers) + products)
