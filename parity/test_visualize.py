"""The drawn modulators, gates and kernels equal those of timm's model, and are enlarged like in PyTorch."""

import numpy as np
import pytest
import torch

from focalnet_jax import visualize
from focalnet_jax.visualize.figures import enlarged
from focalnet_jax.visualize.maps import StageMaps
from parity.measure import load, photos, reduced
from parity.pytorch import build

FLOAT32 = 1e-5  # as in test_models.py


def maps_of(model, images) -> list[StageMaps]:
    """Returns the maps of the authors' notebook: the norm of the modulator over channels, and the gates."""
    modulators, gates, hooks = [], [], []
    for layer in model.layers:
        for block in layer.blocks:
            modulation = block.modulation
            hooks += [
                modulation.h.register_forward_hook(lambda _, __, out: modulators.append(out.norm(dim=1).numpy())),
                modulation.f.register_forward_hook(
                    lambda self, __, out, count=modulation.focal_level + 1: gates.append(
                        out.movedim(1 if out.shape[1] == self.weight.shape[0] else -1, -1)[..., -count:].numpy()
                    )
                ),
            ]
    with torch.no_grad():
        model(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous())
    for hook in hooks:
        hook.remove()
    stages = []
    for layer in model.layers:
        depth = len(layer.blocks)
        stages.append(StageMaps(np.stack(modulators[:depth]), np.stack(gates[:depth])))
        del modulators[:depth], gates[:depth]
    return stages


@pytest.mark.parametrize("name", ["focalnet_tiny_lrf", "focalnet_huge_fl4"])
def test_modulators_gates_and_kernels_are_timms(name):
    config = reduced(name)
    theirs = build(config, "timm")
    ours, images = load(theirs, config), photos(224, 224)
    for mine, other in zip(visualize.modulation_maps(ours, images), maps_of(theirs, images), strict=True):
        for field in ("modulator", "gates"):
            made, expected = getattr(mine, field), getattr(other, field)
            assert made.shape == expected.shape
            assert np.linalg.norm(made - expected) < FLOAT32 * np.linalg.norm(expected)
    for stage, layer in zip(visualize.focal_kernels(ours), theirs.layers, strict=True):
        for level, mine in enumerate(stage):
            kernels = [block.modulation.focal_layers[level][0].weight for block in layer.blocks]  # [C, 1, k, k]
            expected = torch.stack(kernels).mean(dim=(1, 2)).detach().numpy()
            np.testing.assert_allclose(mine, expected, atol=1e-7)


def test_maps_are_enlarged_as_interpolate_does():
    places = np.random.default_rng(0).normal(size=(7, 9)).astype(np.float32)
    wanted = torch.nn.functional.interpolate(
        torch.from_numpy(places)[None, None], size=(224, 288), mode="bilinear", align_corners=False
    )
    np.testing.assert_allclose(enlarged(places, (224, 288)), wanted[0, 0], atol=1e-6)
