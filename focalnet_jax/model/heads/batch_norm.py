"""BatchNorm with PyTorch's running statistics, over the global batch."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import nnx

from focalnet_jax.errors import UserError
from focalnet_jax.ops.compute import Compute


class BatchNorm(nnx.BatchNorm):
    """BatchNorm over B, H and W (arXiv 1502.03167), equal to `torch.nn.SyncBatchNorm`.

    Under `jax.jit`, the mean and variance in training are those of the global batch, however it is sharded. They are
    float32 in every precision. The running variance is updated with the unbiased variance, as in PyTorch, whereas
    Flax's is updated with the biased variance. The parameters are `scale` and `bias`; the running statistics are the
    variables `mean` and `var` of type `nnx.BatchStat`.

    Args:
      channels: number of channels C.
      compute: dtype of the output.
      rngs: random streams for the initialisation.
    """

    def __init__(self, channels: int, compute: Compute, rngs: nnx.Rngs):
        # Flax's momentum is the factor of the old value; PyTorch's, 0.1, is the factor of the new one. The fast
        # variance, E[x^2] - E[x]^2, loses precision where the mean is large.
        super().__init__(channels, momentum=0.9, epsilon=1e-5, dtype=jnp.float32, use_fast_variance=False, rngs=rngs)
        self.output_dtype = compute.dtype

    def __call__(self, x: jax.Array, *, train: bool, used: jax.Array | None = None) -> jax.Array:
        """Maps `[B, H, W, C]` to `[B, H, W, C]`.

        Args:
          x: input.
          train: whether to normalize with the statistics of the batch and to update the running statistics. Otherwise,
            the running statistics normalize the input.
          used: which maps count in the statistics of the batch, `[B]` bool. If None or all False, all maps count.

        Raises:
          UserError: `train` is set and the input has only one value per channel, so there is no variance.
        """
        if not train:
            return super().__call__(x, use_running_average=True).astype(self.output_dtype)
        count: int | jax.Array = math.prod(x.shape[:-1])
        if count < 2:
            raise UserError(
                f"BatchNorm received one value per channel in training (input {x.shape}); expected at least two: use "
                "at least 2 images per batch, and per micro-batch with accumulate_steps"
            )
        mask = None
        if used is not None:
            used |= ~used.any()
            mask, count = used[:, None, None, None], jnp.maximum(used.sum() * (count // len(x)), 2)
        # With an old value of 0, Flax's update is (1 - momentum) times the biased variance.
        old, self.var[...] = self.var[...], jnp.zeros_like(self.var[...])
        normalized = super().__call__(x, use_running_average=False, mask=mask)
        self.var[...] = self.momentum * old + self.var[...] * (count / (count - 1))
        return normalized.astype(self.output_dtype)
