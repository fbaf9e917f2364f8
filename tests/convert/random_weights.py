"""Random weights for tests of conversions."""

import dataclasses

import jax
import numpy as np

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
