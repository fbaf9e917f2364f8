"""Builds FocalNets of timm and transformers with random weights, and computes their outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import timm.models.focalnet
import torch
import transformers

from focalnet_jax.convert.huggingface import transformers_config
from focalnet_jax.model import FocalNetConfig

FORMATS = {"timm": "timm", "transformers": "huggingface"}  # library: its format in `convert`


@dataclass(frozen=True)
class Results:
    """Outputs of a model for images and soft targets, in float32 and NHWC."""

    logits: np.ndarray  # [B, K]
    features: list[np.ndarray]  # [B, h, w, C] per stage, before the downsample
    gradients: dict[str, np.ndarray]  # of the mean cross-entropy, by the library's names of parameters


def can_build(config: FocalNetConfig, library: str) -> bool:
    """Returns whether the library supports the config; timm supports only patches of 4 pixels."""
    return library != "timm" or config.patch_size == 4


def build(config: FocalNetConfig, library: str, *, seed: int = 0) -> torch.nn.Module:
    """Returns the library's model of `config`, with all parameters random and of a normal size.

    In a newly initialised model, a LayerScale of 1e-4 and zero biases would hide errors.
    """
    torch.manual_seed(seed)
    model = (
        timm.models.focalnet.FocalNet(**timm_options(config), num_classes=config.num_classes)
        if library == "timm"
        else _transformers(config)
    )
    return randomized(model)


def randomized(model: torch.nn.Module) -> torch.nn.Module:
    """Returns the model with random parameters, all large enough that leaving one out changes the outputs."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn_like(parameter)
            if parameter.ndim > 1:
                parameter.copy_(noise / (3 * parameter[0].numel()) ** 0.5)  # the variance of PyTorch's initialisation
            elif name.endswith("bias"):
                parameter.copy_(0.1 * noise)
            else:  # LayerNorm's weight and LayerScale
                parameter.copy_(1 + 0.2 * noise)
    return model.eval()


def timm_options(config: FocalNetConfig) -> dict[str, Any]:
    """Returns the arguments of timm's FocalNet, except those of the classifier."""
    return dict(
        embed_dim=config.dims[0],
        depths=config.depths,
        focal_levels=config.levels,
        focal_windows=[config.kernel_sizes(stage)[0] for stage in range(len(config.depths))],
        use_post_norm=config.use_postln,
        use_overlap_down=config.use_conv_embed,
        layerscale_value=config.layerscale_value if config.use_layerscale else None,
        use_post_norm_in_modulation=config.use_postln_in_modulation,
        normalize_modulator=config.normalize_modulator,
        drop_path_rate=config.drop_path_rate,
    )


def _transformers(config: FocalNetConfig) -> torch.nn.Module:
    stated = transformers.FocalNetConfig(**transformers_config(config, 224))
    return transformers.FocalNetForImageClassification(stated)


def run(model: torch.nn.Module, images: np.ndarray, targets: np.ndarray, *, gradients: bool) -> Results:
    """Returns logits, features and, optionally, gradients of a model from `build`, for `images` `[B, H, W, 3]`."""
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    kept: list[np.ndarray] = []
    hooks = [block.register_forward_hook(lambda *args: kept.append(_map(args))) for block in _last_blocks(model)]
    model.zero_grad()
    with torch.set_grad_enabled(gradients):
        logits = model(pixels)
        logits = getattr(logits, "logits", logits)
        if gradients:
            torch.nn.functional.cross_entropy(logits, torch.from_numpy(targets)).backward()
    for hook in hooks:
        hook.remove()
    found = {name: parameter.grad.numpy() for name, parameter in model.named_parameters()} if gradients else {}
    return Results(logits.detach().float().numpy(), kept, found)


def _last_blocks(model: torch.nn.Module) -> list[torch.nn.Module]:
    if hasattr(model, "focalnet"):
        return [stage.layers[-1] for stage in model.focalnet.encoder.stages]
    return [stage.blocks[-1] for stage in model.layers]


def _map(hooked: tuple[Any, ...]) -> np.ndarray:
    """Returns a block's output as `[B, h, w, C]`; transformers has `[B, h * w, C]`, and the size in the inputs."""
    _, inputs, output = hooked
    output = output.detach().float()
    if output.ndim == 3:
        return output.reshape(output.shape[0], *inputs[1], output.shape[2]).numpy()
    return output.permute(0, 2, 3, 1).numpy()
