"""Random weights for tests of conversions."""

import dataclasses

import jax
import numpy as np
from flax import nnx

from focalnet_jax.convert.detectors import DetectorHead, DetectorWeights, abstract_detector
from focalnet_jax.convert.mapping import param_shapes
from focalnet_jax.convert.upernet import Heads, UPerNetWeights, variable_shapes
from focalnet_jax.convert.weights import Weights
from focalnet_jax.model import FocalNetConfig


def weights_of(**options):
    """Returns weights whose parameters are all random."""
    config = FocalNetConfig(**({"embed_dim": 8, "depths": (1, 2)} | options))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), param_shapes(config))
    return Weights(params, config, None, "orbax", "float32", ())


def with_classes(weights, count):
    return dataclasses.replace(weights.config, num_classes=count)


def upernet_of(**options):
    """Returns weights of a small UPerNet with 3 classes whose variables are all random."""
    config = FocalNetConfig(embed_dim=8, depths=(1, 1, 1, 1), num_classes=3, focal_windows=3, **options)
    heads, rng = Heads(4, (1, 2), 4), np.random.default_rng(0)
    params, statistics = variable_shapes(config, heads)
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), params)
    statistics = jax.tree.map(lambda leaf: rng.uniform(1, 2, leaf.shape).astype(np.float32), statistics)
    return UPerNetWeights(params, config, None, "orbax", "float32", (), statistics=statistics, heads=heads)


DETECTOR_HEADS = {
    "atss": DetectorHead("atss", 32, convs=1),
    "mask_rcnn": DetectorHead("mask_rcnn", 4, hidden=6),
    "cascade_mask_rcnn": DetectorHead("cascade_mask_rcnn", 4, hidden=6),
    "sparse_rcnn": DetectorHead("sparse_rcnn", 16, hidden=12, proposals=5),
}


def random_detector(name, classes=3, **options):
    """Returns weights of a small detector whose variables are all random."""
    defaults = {"embed_dim": 4, "depths": (1, 2, 1, 1), "focal_levels": 2, "focal_windows": (5, 3, 3, 3)}
    config, head = FocalNetConfig(**(defaults | {"num_classes": classes} | options)), DETECTOR_HEADS[name]
    _, *shapes = nnx.split(abstract_detector(config, head), nnx.Param, ...)
    rng = np.random.default_rng(0)
    params, statistics = (
        jax.tree.map(lambda leaf: rng.uniform(0.5, 1, leaf.shape).astype(np.float32), nnx.to_pure_dict(each))
        for each in shapes
    )
    return DetectorWeights(params, config, None, "orbax", "float32", (), statistics=statistics, head=head)
