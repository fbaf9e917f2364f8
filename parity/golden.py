"""Writes tests/convert/golden/: .venv-parity/bin/python -m parity.golden.

The files contain small models of timm, transformers and mmsegmentation with random weights, and their outputs.
`make test` compares this package with these files, without torch.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from focalnet_jax.model import FocalNetConfig
from parity import upernet
from parity.pytorch import build, run

OUT = Path(__file__).parent.parent / "tests" / "convert" / "golden"
SMALL = dict(embed_dim=8, depths=(1, 2), num_classes=5, drop_path_rate=0.0)
LARGE = dict(use_conv_embed=True, use_postln=True, use_layerscale=True, layerscale_value=1e-4)
# Image sizes [H, W]. Only timm's are odd, because transformers pads sizes that are not multiples of the patch sizes,
# whereas the original rounds down.
MODELS = {
    "timm_lrf": (FocalNetConfig(**SMALL, focal_levels=3), (33, 40)),
    "timm_fl4": (FocalNetConfig(**SMALL, focal_levels=4, normalize_modulator=True, **LARGE), (33, 40)),
    "huggingface_srf": (FocalNetConfig(**SMALL, focal_levels=2), (32, 40)),
    "huggingface_huge": (FocalNetConfig(**SMALL, focal_levels=3, use_postln_in_modulation=True, **LARGE), (32, 40)),
}
# The same config and heads in tests/convert/test_upernet.py.
UPERNET = FocalNetConfig(embed_dim=4, depths=(1, 1, 1, 1), focal_levels=2, focal_windows=9, drop_path_rate=0.0)
HEADS = dict(channels=6, auxiliary_channels=5)


def main() -> None:
    """Writes all golden files, with random weights from one seed."""
    OUT.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(0)
    for name, (config, size) in MODELS.items():
        model = build(config, {"timm": "timm", "huggingface": "transformers"}[name.split("_")[0]])
        images = draw.standard_normal((2, *size, 3), np.float32)
        targets = draw.dirichlet(np.ones(config.num_classes), 2).astype(np.float32)
        found = run(model, images, targets, gradients=True)
        features = {f"features{stage}": maps for stage, maps in enumerate(found.features)}
        np.savez_compressed(OUT / f"{name}.npz", images=images, targets=targets, logits=found.logits, **features)
        gradients = {key: torch.from_numpy(value).contiguous() for key, value in found.gradients.items()}
        weights = {key: value.detach().contiguous() for key, value in model.state_dict().items()}
        for file, tensors in ((f"{name}.safetensors", weights), (f"{name}.gradients.safetensors", gradients)):
            save_file(tensors, OUT / file)
            (OUT / file).chmod(0o644)
    write_upernet()


def write_upernet() -> None:
    """Writes mmsegmentation's UPerNet with weights in float16, its logits, and the statistics after a training step."""
    model = upernet.build(UPERNET, 3, **HEADS).half().float()  # so that float16 stores the weights exactly
    images = np.random.default_rng(0).standard_normal((3, 37, 50, 3)).astype(np.float16)
    weights = {name: array.astype(np.float16) for name, array in upernet.arrays(model).items()}
    with torch.no_grad():
        logits, _ = upernet.both_logits(model, images.astype(np.float32))
        training = upernet.both_logits(model.train(), images.astype(np.float32))
    after = {name: array for name, array in upernet.arrays(model).items() if "running" in name}
    np.savez_compressed(
        OUT / "upernet.npz",
        images=images,
        logits=logits,
        training_logits=training[0],
        auxiliary_logits=training[1],
        **{f"weights/{name}": array for name, array in weights.items()},
        **{f"after/{name}": array for name, array in after.items()},
    )


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    main()
