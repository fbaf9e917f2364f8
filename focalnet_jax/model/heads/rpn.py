"""Region proposal network (arXiv 1506.01497), equal to mmdetection's RPNHead. Parameters have mmdetection's names."""

from __future__ import annotations

from collections.abc import Sequence

import jax
from flax import nnx

from focalnet_jax.distributed.activations import by_example
from focalnet_jax.model.heads.convolutions import convolution, predictor
from focalnet_jax.ops.compute import Compute


class RPNHead(nnx.Module):
    """A 3x3 convolution and two 1x1 convolutions to the logits and deltas of the anchors, shared by all levels.

    Args:
      channels: number of channels of the maps.
      anchors: number of anchors per position A.
      compute: dtype and precision of the 3x3 convolution; the other two are float32.
      rngs: random streams for the initialisation.
    """

    def __init__(self, channels: int, anchors: int, *, compute: Compute, rngs: nnx.Rngs):
        init = nnx.initializers.normal(0.01)
        self.rpn_conv = convolution(channels, channels, 3, init=init, compute=compute, rngs=rngs)
        self.rpn_cls = predictor(channels, anchors, 1, std=0.01, compute=compute, rngs=rngs)
        self.rpn_reg = predictor(channels, 4 * anchors, 1, std=0.01, compute=compute, rngs=rngs)

    def __call__(self, maps: Sequence[jax.Array]) -> tuple[list[jax.Array], list[jax.Array]]:
        """Returns logits `[B, h, w, A]` and deltas `[B, h, w, A, 4]` of each level, float32.

        Args:
          maps: one map `[B, h, w, C]` per level.
        """
        logits, deltas = [], []
        for x in maps:
            x = nnx.relu(by_example(self.rpn_conv(x)))
            logits.append(by_example(self.rpn_cls(x)))
            boxes = self.rpn_reg(x)  # [B, h, w, 4A]; the four deltas of an anchor are adjacent
            deltas.append(by_example(boxes.reshape(*boxes.shape[:-1], -1, 4)))
        return logits, deltas
