"""Maps of the backbone equal timm's `features_only`, and the maps in the original's detectors and segmenters."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from timm.models import focalnet

from focalnet_jax.convert.mapping import tensors_to_params
from focalnet_jax.model import Backbone, variant_config
from focalnet_jax.model.precision import get_precision
from focalnet_jax.parameters import named_leaves, with_leaves
from parity.dense import DenseFocalNet
from parity.measure import photos, reduced, relative
from parity.pytorch import randomized, timm_options

# float32 on both sides, summed in different orders, as in test_models.py; gradients pass through twice the layers.
FLOAT32, GRADIENTS = 1e-5, 1e-4


def seeded(model):
    """Returns the model with random parameters from a fixed seed."""
    torch.manual_seed(0)
    return randomized(model)


def ours_from(tensors, config, format):
    """Returns a backbone's parameters by path, from the tensors of a PyTorch backbone and the norms of its outputs."""
    leaves = {}
    for stage in range(len(config.depths)):
        for ours, theirs in (("scale", "weight"), ("bias", "bias")):
            if (name := f"norm{stage}.{theirs}") in tensors:
                leaves[f"output_norms/{stage}/{ours}"] = tensors[name]
    blocks = {name: tensor for name, tensor in tensors.items() if not name.startswith("norm")}
    # The tables describe classifiers, which have one more norm.
    blocks |= {"norm.weight": np.ones(config.dims[-1]), "norm.bias": np.zeros(config.dims[-1])}
    classifier = named_leaves(tensors_to_params(blocks, dataclasses.replace(config, num_classes=0), format))
    return leaves | {name: leaf for name, leaf in classifier.items() if not name.startswith("norm/")}


def backbone(config, tensors, format, **options):
    model = Backbone(config, precision=get_precision("float32"), rngs=nnx.Rngs(0), **options)
    leaves = ours_from(tensors, config, format)
    state = nnx.state(model)
    pure = nnx.to_pure_dict(state)
    assert leaves.keys() == named_leaves(pure).keys()  # every parameter on both sides
    nnx.replace_by_pure_dict(state, with_leaves(pure, {name: jnp.asarray(leaf) for name, leaf in leaves.items()}))
    nnx.update(model, state)
    return model


def arrays(model):
    return {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("name", ["focalnet_tiny_lrf", "focalnet_large_fl3", "focalnet_huge_fl4"])
def test_features_are_timms(name):
    config = reduced(name)
    theirs = seeded(focalnet._create_focalnet(name, features_only=True, **timm_options(config)))
    tensors = {key.replace("layers_", "layers."): tensor for key, tensor in arrays(theirs).items()}
    ours = backbone(config, tensors, "timm")
    assert (list(ours.channels), list(ours.strides)) == (
        theirs.feature_info.channels(),
        theirs.feature_info.reduction(),
    )
    images = photos(225, 240)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(images).permute(0, 3, 1, 2))
    for mine, other in zip(jax.jit(lambda x: ours.features(x))(images), expected, strict=True):
        assert relative(mine, other.permute(0, 2, 3, 1)) < FLOAT32


def dense_config(**options):
    return variant_config("focalnet_tiny_srf", **dict(embed_dim=16, depths=(1, 1, 2, 1), focal_windows=9) | options)


DENSE = {
    "srf": dense_config(),
    "lrf": dense_config(focal_levels=3),
    "11, 9, 9, 7": dense_config(focal_windows=(11, 9, 9, 7)),
    "overlapped": dense_config(use_conv_embed=True, use_layerscale=True),
}


@pytest.mark.parametrize("name", DENSE)
@pytest.mark.parametrize("size", [(97, 130), (128, 96)])
def test_maps_and_gradients_are_those_of_the_originals_dense_backbone(name, size):
    config = DENSE[name]
    theirs = seeded(DenseFocalNet(config))
    stem = {"stem_padding": 3} if config.use_conv_embed else {}
    ours = backbone(config, arrays(theirs), "microsoft", output_norms=True, pad=True, **stem)
    images = photos(*size)
    expected = theirs(torch.from_numpy(images).permute(0, 3, 1, 2))
    graph, params = nnx.split(ours)

    def loss(params):
        maps = nnx.merge(graph, params).features(images)
        return sum(jnp.mean(jnp.sin(each)) for each in maps), maps

    gradients, maps = jax.jit(jax.grad(loss, has_aux=True))(nnx.to_pure_dict(params))
    for mine, other in zip(maps, expected, strict=True):
        assert relative(mine, other.detach().permute(0, 2, 3, 1)) < FLOAT32
    sum(torch.sin(each).mean() for each in expected).backward()
    wanted = ours_from({key: each.grad.numpy() for key, each in theirs.named_parameters()}, config, "microsoft")
    for key, leaf in named_leaves(gradients).items():
        assert relative(leaf, wanted[key]) < GRADIENTS, key


def test_the_comparison_sees_the_classifiers_stem_and_sizes():
    config = DENSE["overlapped"]
    theirs = seeded(DenseFocalNet(config))
    images = photos(97, 130)
    with torch.no_grad():
        first, *_ = theirs(torch.from_numpy(images).permute(0, 3, 1, 2))
    assert first.shape[2:] == (25, 33)
    classifiers = backbone(config, arrays(theirs), "microsoft", output_norms=True, pad=True)
    assert relative(classifiers.features(images)[0], first.permute(0, 2, 3, 1)) > 0.01
    floored = backbone(DENSE["srf"], arrays(seeded(DenseFocalNet(DENSE["srf"]))), "microsoft", output_norms=True)
    assert floored.features(images)[0].shape[1:3] == (24, 32)
