"""The backbone of the original's detectors and segmenters (microsoft/FocalNet detection/ and segmentation/) in PyTorch.

Written from the original's description, because no package contains it. The names of tensors are the original's.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from focalnet_jax.model import FocalNetConfig


class DenseFocalNet(nn.Module):
    """Maps images `[B, 3, H, W]` to one LayerNorm'd map `[B, C, h, w]` per stage, taken before its downsample."""

    def __init__(self, config: FocalNetConfig):
        super().__init__()
        dims = config.dims
        self.patch_embed = Embedding(3, dims[0], config.patch_size, (7, 4, 3) if config.use_conv_embed else None)
        self.layers = nn.ModuleList()
        for stage, dim in enumerate(dims):
            layer = nn.Module()
            layer.blocks = nn.ModuleList(Block(config, stage) for _ in range(config.depths[stage]))
            if stage + 1 < len(dims):
                layer.downsample = Embedding(dim, dims[stage + 1], 2, (3, 2, 1) if config.use_conv_embed else None)
            self.layers.append(layer)
            self.add_module(f"norm{stage}", nn.LayerNorm(dim))

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Returns one map per stage. The next stage receives the map without the LayerNorm."""
        x, maps = self.patch_embed(images), []
        for stage, layer in enumerate(self.layers):
            for block in layer.blocks:
                x = block(x)
            maps.append(over_channels(getattr(self, f"norm{stage}"), x))
            if hasattr(layer, "downsample"):
                x = layer.downsample(x)
        return maps


class Embedding(nn.Module):
    """Pads on the right and at the bottom to a multiple of the patch size; then a convolution and LayerNorm."""

    def __init__(self, inputs: int, dim: int, patch: int, overlapped: tuple[int, int, int] | None):
        super().__init__()
        kernel, stride, padding = overlapped or (patch, patch, 0)
        self.patch = patch
        self.proj = nn.Conv2d(inputs, dim, kernel, stride, padding)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps `[B, C, H, W]` to `[B, D, ceil(H / patch), ceil(W / patch)]`."""
        height, width = x.shape[2:]
        x = F.pad(x, (0, -width % self.patch, 0, -height % self.patch))
        return over_channels(self.norm, self.proj(x))


class Block(nn.Module):
    """Modulation and MLP with pre-norm, the only kind of block in the original's dense backbone."""

    def __init__(self, config: FocalNetConfig, stage: int):
        super().__init__()
        dim = config.dims[stage]
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.modulation = Modulation(dim, config.kernel_sizes(stage))
        self.mlp = nn.Module()
        self.mlp.fc1 = nn.Linear(dim, int(dim * config.mlp_ratio))
        self.mlp.fc2 = nn.Linear(int(dim * config.mlp_ratio), dim)
        if config.use_layerscale:
            self.gamma_1, self.gamma_2 = (nn.Parameter(torch.ones(dim)) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps `[B, C, H, W]` to `[B, C, H, W]`."""
        x = x.permute(0, 2, 3, 1)
        x = x + self.modulation(self.norm1(x)) * getattr(self, "gamma_1", 1)
        hidden = F.gelu(self.mlp.fc1(self.norm2(x)))
        x = x + self.mlp.fc2(hidden) * getattr(self, "gamma_2", 1)
        return x.permute(0, 3, 1, 2)


class Modulation(nn.Module):
    """Focal modulation of `[B, H, W, C]`."""

    def __init__(self, dim: int, sizes: tuple[int, ...]):
        super().__init__()
        self.f = nn.Linear(dim, 2 * dim + len(sizes) + 1)
        self.h = nn.Conv2d(dim, dim, 1)
        self.proj = nn.Linear(dim, dim)
        self.focal_layers = nn.ModuleList(
            nn.Sequential(nn.Conv2d(dim, dim, k, padding=k // 2, groups=dim, bias=False), nn.GELU()) for k in sizes
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps `[B, H, W, C]` to `[B, H, W, C]`."""
        dim, levels = x.shape[-1], len(self.focal_layers)
        query, context, gates = torch.split(self.f(x).permute(0, 3, 1, 2), (dim, dim, levels + 1), dim=1)
        total = torch.zeros_like(context)
        for level, layer in enumerate(self.focal_layers):
            context = layer(context)
            total = total + context * gates[:, level, None]
        total = total + F.gelu(context.mean(dim=(2, 3), keepdim=True)) * gates[:, levels, None]
        return self.proj((query * self.h(total)).permute(0, 2, 3, 1))


def over_channels(norm: nn.LayerNorm, x: torch.Tensor) -> torch.Tensor:
    """Applies LayerNorm over C to `[B, C, H, W]`."""
    return norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
