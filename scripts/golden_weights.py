"""Makes tests/convert/golden/: python scripts/golden_weights.py (needs torch, timm, transformers, safetensors).

Small models of timm and transformers with random weights, and what they compute from a random image: logits, stage
features (timm) and the gradient of every parameter of sum(logits ** 2).
"""

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from timm.models.focalnet import FocalNet
from transformers import FocalNetConfig, FocalNetForImageClassification

OUT = Path(__file__).parent.parent / "tests" / "convert" / "golden"
LARGE = dict(use_post_norm=True, use_overlap_down=True, layerscale_value=1e-4)
HF_LARGE = dict(use_conv_embed=True, use_post_layernorm=True, use_layerscale=True)
TIMM = {
    "timm_lrf": dict(focal_levels=[3, 3], focal_windows=[3, 3]),
    "timm_fl4": dict(focal_levels=[4, 4], focal_windows=[3, 3], normalize_modulator=True, **LARGE),
}
HUGGINGFACE = {
    "huggingface_srf": dict(focal_levels=[2, 2], focal_windows=[3, 3]),
    "huggingface_huge": dict(
        focal_levels=[3, 3], focal_windows=[3, 3], use_post_layernorm_in_modulation=True, **HF_LARGE
    ),
}


def write(name: str, model: torch.nn.Module, images: torch.Tensor) -> None:
    """Weights, images, logits, features and gradients of a model whose every parameter is random."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.eval()
    logits = model(images)
    logits = getattr(logits, "logits", logits)
    (logits**2).sum().backward()
    results = {"images": images.permute(0, 2, 3, 1), "logits": logits}
    if isinstance(model, FocalNet):
        features = model.forward_intermediates(images, intermediates_only=True)
        results |= {f"features{index}": maps.permute(0, 2, 3, 1) for index, maps in enumerate(features)}
    save_file(
        {key: value.detach().contiguous() for key, value in model.state_dict().items()}, OUT / f"{name}.safetensors"
    )
    gradients = {key: parameter.grad.contiguous() for key, parameter in model.named_parameters()}
    save_file(gradients, OUT / f"{name}.gradients.safetensors")
    np.savez_compressed(OUT / f"{name}.npz", **{key: value.detach().numpy() for key, value in results.items()})


def main() -> None:
    """Writes all golden files from one seed."""
    torch.manual_seed(0)
    OUT.mkdir(parents=True, exist_ok=True)
    for name, flags in TIMM.items():
        write(name, FocalNet(embed_dim=8, depths=(1, 2), num_classes=5, **flags), torch.randn(2, 3, 33, 40))
    for name, flags in HUGGINGFACE.items():
        config = FocalNetConfig(embed_dim=8, hidden_sizes=[8, 16], depths=[1, 2], num_labels=5, **flags)
        # transformers pads what its embeddings do not divide, the original floors: divisible sizes only
        write(name, FocalNetForImageClassification(config), torch.randn(2, 3, 32, 40))


if __name__ == "__main__":
    main()
