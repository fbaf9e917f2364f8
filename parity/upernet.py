"""Builds mmsegmentation's UPerNet with the original's FocalNet, and this package's UPerNet with the same weights."""

from __future__ import annotations

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

from focalnet_jax.convert.tables_upernet import tensors_to_variables
from focalnet_jax.model import FocalNetConfig
from focalnet_jax.model.heads.upernet import UPerNet
from focalnet_jax.model.precision import get_precision
from parity import mmcv_stub
from parity.dense import DenseFocalNet
from parity.pytorch import randomized

mmcv_stub.install()
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # mmcv warns about operations that mmcv-lite lacks
    from mmseg.models.segmentors import EncoderDecoder
    from mmseg.registry import MODELS

MODELS.register_module(module=DenseFocalNet)


def build(
    config: FocalNetConfig, num_classes: int, *, channels: int = 512, auxiliary_channels: int = 256, seed: int = 0
) -> EncoderDecoder:
    """Returns mmsegmentation's model without dropout, with random parameters and running statistics, for evaluation.

    The arguments of the heads are those of the original's configuration files for ADE20K, with BatchNorm instead of
    SyncBatchNorm, which PyTorch computes only on GPUs.
    """
    torch.manual_seed(seed)
    shared = dict(
        num_classes=num_classes,
        dropout_ratio=0.0,
        norm_cfg=dict(type="BN"),
        align_corners=False,
        loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=False),
    )
    model = EncoderDecoder(
        backbone=dict(type="DenseFocalNet", config=config),
        decode_head=dict(
            type="UPerHead",
            in_channels=list(config.dims),
            in_index=[0, 1, 2, 3],
            pool_scales=(1, 2, 3, 6),
            channels=channels,
            **shared,
        ),
        auxiliary_head=dict(
            type="FCNHead",
            in_channels=config.dims[2],
            in_index=2,
            channels=auxiliary_channels,
            num_convs=1,
            concat_input=False,
            **shared,
        ),
    )
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.copy_(0.1 * torch.randn_like(buffer))
        elif name.endswith("running_var"):
            buffer.copy_(0.5 + torch.rand_like(buffer))
    return randomized(model)


def arrays(model: torch.nn.Module) -> dict[str, np.ndarray]:
    """Returns copies of the tensors of a model by mmsegmentation's names."""
    return {name: tensor.detach().numpy().copy() for name, tensor in model.state_dict().items()}


def ours_from(
    model: EncoderDecoder, config: FocalNetConfig, num_classes: int, *, dtype: str = "float32", **options: int
) -> UPerNet:
    """Returns this package's model with the weights of mmsegmentation's model."""
    ours = nnx.eval_shape(
        lambda: UPerNet(config, num_classes, precision=get_precision(dtype), rngs=nnx.Rngs(0), dropout=0.0, **options)
    )
    graph, state = nnx.split(ours)
    variables = tensors_to_variables(arrays(model), nnx.to_pure_dict(state), config, "mmseg")
    nnx.replace_by_pure_dict(state, jax.tree.map(jnp.asarray, variables))
    return nnx.merge(graph, state)


def pixels(images: np.ndarray) -> torch.Tensor:
    """Returns images `[B, H, W, 3]` as `[B, 3, H, W]`."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


def both_logits(model: EncoderDecoder, images: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the logits of mmsegmentation's decode head and auxiliary head, `[B, h, w, K]` each."""
    maps = model.extract_feat(pixels(images))
    return tuple(head(maps).permute(0, 2, 3, 1) for head in (model.decode_head, model.auxiliary_head))
